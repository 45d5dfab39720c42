"""What sockets keep uncounted is bounded by their number and by what the host has lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from era_kernels.sandbox.server import socket_memory
from era_kernels.sandbox.server.socket_memory import (
    FREE_SOCKETS,
    LEAST_PER_SOCKET,
    MAX_UDP_AT_PORT,
    SocketCounts,
    SocketMemory,
    _most_sockets,
    _own_of_host,
)

MIB = 1024**2


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A host of which the test says what it has."""
    state = {"sockets": 10, "udp": 0, "small": 500 * MIB, "all": 900 * MIB}

    def count(pid: int) -> SocketCounts:
        return SocketCounts(state["sockets"], state["udp"])

    monkeypatch.setattr(SocketCounts, "of_network", count)
    monkeypatch.setattr(socket_memory, "_own_of_host", lambda: (state["small"], state["all"]))
    monkeypatch.setattr(socket_memory, "_most_per_socket", lambda: LEAST_PER_SOCKET)
    monkeypatch.setattr(socket_memory, "_most_sockets", lambda: 8000)
    return state


@pytest.mark.parametrize(
    ("sockets", "small", "whole", "size"),
    [
        (FREE_SOCKETS, 100, 100, 0),
        (FREE_SOCKETS + 4, 100, 100, 1),  # no more than so many sockets can keep
        (FREE_SOCKETS + 4000, 100, 30, 100),  # no more than the host has lost
        (FREE_SOCKETS + 4000, -50, 70, 70),  # others have given back
        (FREE_SOCKETS + 4000, -50, -70, 0),
    ],
)
def test_size(host: dict[str, int], sockets: int, small: int, whole: int, size: int) -> None:
    """The figures are MiB, as the host has grown."""
    memory = SocketMemory(1)
    host["sockets"] = sockets
    host["small"] += small * MIB
    host["all"] += whole * MIB
    memory.measure()
    assert memory.size == size * MIB


def test_from_when_there_were_few(host: dict[str, int]) -> None:
    """What the host lost before, it lost to others; with few sockets again nothing counts."""
    memory = SocketMemory(1)
    host["small"] += 300 * MIB
    memory.measure()
    host["sockets"] = FREE_SOCKETS + 4000
    host["small"] += 20 * MIB
    memory.measure()
    assert memory.size == 20 * MIB
    host["sockets"] = 3
    memory.measure()
    assert memory.size == 0


@pytest.mark.parametrize(
    ("sockets", "udp", "excess"),
    [
        (8000, MAX_UDP_AT_PORT, None),
        (8001, 0, "more than 8000 sockets"),
        (600, MAX_UDP_AT_PORT + 1, "more than 64 UDP sockets at one port"),
    ],
)
def test_too_many(host: dict[str, int], sockets: int, udp: int, excess: str | None) -> None:
    """A session that has more than so many ends, with the cause."""
    memory = SocketMemory(1)
    host["sockets"], host["udp"] = sockets, udp
    memory.measure()
    assert memory.excess == excess


def test_what_linux_tells() -> None:
    """Its files are as expected, and one of a process that has ended says nothing."""
    assert _most_sockets() >= 4096
    assert SocketCounts.of_network(os.getpid()).all > 0
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert SocketCounts.of_network(ended.pid) == SocketCounts()
    small, whole = _own_of_host()
    assert small > 0
    assert whole > 0


@pytest.mark.parametrize("protocol", [socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE])
def test_udp_at_one_port(protocol: int) -> None:
    """Sockets that share a port are counted, of either family, and those of other ports are not."""
    with ExitStack() as stack:

        def bind(family: socket.AddressFamily, address: str, port: int) -> int:
            one = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
            return int(one.getsockname()[1])

        try:
            port = bind(socket.AF_INET, "127.0.0.1", 0)
        except OSError as error:
            pytest.skip(f"no such sockets: {error}")
        for _ in range(MAX_UDP_AT_PORT):
            bind(socket.AF_INET, "127.0.0.1", 0)
        assert SocketCounts.of_network(os.getpid()).udp_at_port < MAX_UDP_AT_PORT
        for _ in range(MAX_UDP_AT_PORT // 2):
            bind(socket.AF_INET, "127.0.0.1", port)
            bind(socket.AF_INET6, "::1", port)
        assert SocketCounts.of_network(os.getpid()).udp_at_port == MAX_UDP_AT_PORT + 1

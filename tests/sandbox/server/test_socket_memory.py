"""What sockets keep uncounted is bounded by their number and by what the host has lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest

from era_kernels.sandbox.server import socket_memory
from era_kernels.sandbox.server.socket_memory import (
    FREE_SOCKETS,
    LEAST_PER_SOCKET,
    MAX_UDP_SOCKETS,
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
        (8000, MAX_UDP_SOCKETS, None),
        (8001, 0, "more than 8000 sockets"),
        (600, MAX_UDP_SOCKETS + 1, "more than 512 UDP sockets"),
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
    bound = 0  # others on the host may have more
    with ExitStack() as stack:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE):
                with suppress(OSError):  # a host without IPv6, or UDP-Lite
                    one = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
                    one.bind((address, 0))
                    bound += 1
        found = SocketCounts.of_network(os.getpid())
    assert found.all >= found.udp >= bound > 0
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert SocketCounts.of_network(ended.pid) == SocketCounts()
    small, whole = _own_of_host()
    assert small > 0
    assert whole > 0

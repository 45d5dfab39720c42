"""Who has a port of the host is found in /proc, whatever the address and the family."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from era_kernels.sandbox.server import tcp_owners

LISTEN = """
import socket, sys
end = socket.create_server(("127.0.0.1", 0))
print(end.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def other_listener() -> Iterator[tuple[int, int]]:
    """A process that listens: its pid and port."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LISTEN], text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process.pid, int(process.stdout.readline())


@contextmanager
def bind(family: socket.AddressFamily, address: str) -> Iterator[socket.socket]:
    """A socket at a free port, which does not listen yet."""
    with socket.socket(family) as end:
        if family == socket.AF_INET6:
            end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        end.bind((address, 0))
        yield end


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1"),
        (socket.AF_INET6, "::ffff:0.0.0.0"),
    ],
)
def test_listeners_by_address(family: socket.AddressFamily, address: str) -> None:
    """Each address that 127.0.0.1 leads to counts, from the moment when the socket listens."""
    with bind(family, address) as end:
        port = end.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            tcp_owners.check_listeners(os.getpid(), port)
        end.listen()
        inodes = tcp_owners.check_listeners(os.getpid(), port)
        assert inodes == {os.fstat(end.fileno()).st_ino}
        with socket.create_connection(("127.0.0.1", port)) as connection:
            own_port = connection.getsockname()[1]
            tcp_owners.check_peer(os.getpid(), port, own_port, inodes)
            accepted, _ = end.accept()
            end.close()
            with accepted:
                tcp_owners.check_peer(os.getpid(), port, own_port, inodes)
            with pytest.raises(ConnectionRefusedError):
                tcp_owners.check_peer(os.getpid(), port, own_port, inodes)


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")]
)
def test_other_addresses_do_not_count(family: socket.AddressFamily, address: str) -> None:
    """A listener that 127.0.0.1 does not lead to is none."""
    with bind(family, address) as end:
        end.listen()
        with pytest.raises(ConnectionRefusedError):
            tcp_owners.check_listeners(os.getpid(), end.getsockname()[1])


def test_whose_it_is() -> None:
    """A listener belongs to its process and to those above it, to no other process."""
    with other_listener() as (pid, port), other_listener() as (another, _):
        assert tcp_owners.check_listeners(pid, port)
        assert tcp_owners.check_listeners(os.getpid(), port)
        for foreign in (another, 0):
            with pytest.raises(PermissionError, match="outside the session"):
                tcp_owners.check_listeners(foreign, port)


def test_a_peer_that_is_another() -> None:
    """A connection that a foreign process accepts, now or later, is not taken for the session's."""
    with other_listener() as (pid, port), other_listener() as (another, _):
        inodes = tcp_owners.check_listeners(pid, port)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            own_port = connection.getsockname()[1]
            tcp_owners.check_peer(pid, port, own_port, inodes)
            with pytest.raises(PermissionError):
                tcp_owners.check_peer(another, port, own_port, inodes)


def test_without_lists_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without those files of /proc finds the same processes."""

    def no_such_file(pid: int) -> list[int]:
        raise FileNotFoundError

    with other_listener() as (pid, port), other_listener() as (another, _):
        expected = set(tcp_owners.sandbox_pids(os.getpid()))
        monkeypatch.setattr(tcp_owners, "_children", no_such_file)
        assert {pid, another} <= set(tcp_owners.sandbox_pids(os.getpid())) <= expected
        assert tcp_owners.check_listeners(pid, port)
        with pytest.raises(PermissionError):
            tcp_owners.check_listeners(another, port)

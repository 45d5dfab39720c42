"""Tells which process of the host is at the other end of a port on 127.0.0.1, from /proc.

Without a network namespace a port is the host's, and anybody's service may listen on it: code must
not make the server speak to such a one. All functions are blocking.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from era_kernels.sandbox.server.process_tree import ProcessTree

LOOKS, LOOK_INTERVAL = 3, 0.01  # seconds
LISTENING = b"0A"  # include/net/tcp_states.h
_NO_INODE = 0  # of a connection that no process has
LOOPBACK = "127.0.0.1"
_TCP4, _TCP6 = Path("/proc/net/tcp"), Path("/proc/net/tcp6")
# By the address of a connection: each table, and where a listener of it is bound, in Linux's order.
# The second table takes some 20 ms to read, and has none where the first has one, but for programs
# of one user that share a port on purpose.
_TABLES: dict[str, dict[Path, tuple[str, ...]]] = {
    LOOPBACK: {
        _TCP4: ("127.0.0.1", "0.0.0.0"),
        _TCP6: ("::ffff:127.0.0.1", "::", "::ffff:0.0.0.0"),
    },
    "::1": {_TCP6: ("::1", "::")},
}


@dataclass(frozen=True, slots=True)
class _TcpSocket:
    """The fields used of a line of /proc/net/tcp; an address is its text there, with the port."""

    local: bytes
    remote: bytes
    state: bytes
    inode: int


def check_listeners(init_pid: int, port: int, address: str = LOOPBACK) -> frozenset[int]:
    """Returns the inodes of the sockets that listen on `address`:`port`, all of this sandbox.

    Raises ConnectionRefusedError when there is none, and PermissionError when a process that does
    not descend from the init has one.
    """
    return _require_owner(init_pid, partial(_find_listeners, port, address))


def check_peer(
    init_pid: int, port: int, own_port: int, listeners: frozenset[int], address: str = LOOPBACK
) -> None:
    """Checks that the connection from `own_port` to `port` is with a process of this sandbox.

    `listeners` is what `check_listeners` returned before it was made. When they are there no more,
    the connection has been accepted, and its other end counts. Raises as that does.
    """
    with suppress(ConnectionRefusedError):
        if check_listeners(init_pid, port, address) == listeners:
            return
    _require_owner(init_pid, partial(_find_peer, port, own_port, address))


def _require_owner(init_pid: int, find: Callable[[], frozenset[int]]) -> frozenset[int]:
    """Returns the inodes that `find` returns, when processes of the sandbox have all of them.

    A process may end after its socket was found: whether that is there is looked at again.
    """
    for number in range(LOOKS):
        time.sleep(LOOK_INTERVAL * number)
        inodes = find()
        if _is_owner(init_pid, inodes):
            return inodes
    raise PermissionError(errno.EACCES, "a program outside the session listens there")


def _find_listeners(port: int, address: str) -> frozenset[int]:
    """Returns the inodes of the sockets that listen there. Raises ConnectionRefusedError."""
    for table, bound in _TABLES[address].items():
        listening = [one for one in read_sockets(table, port) if one.state == LISTENING]
        for one_address in bound:
            name = _to_proc_text(one_address, port)
            inodes = frozenset(one.inode for one in listening if one.local == name)
            if inodes:
                return inodes
    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _find_peer(port: int, own_port: int, address: str) -> frozenset[int]:
    """Returns the inode of the other end of a connection. Raises ConnectionRefusedError."""
    for table, (name, *_) in _TABLES[address].items():
        ends = (_to_proc_text(name, port), _to_proc_text(name, own_port))
        for one in read_sockets(table, port):
            if (one.local, one.remote) == ends and one.inode != _NO_INODE:
                return frozenset({one.inode})
    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _is_owner(init_pid: int, inodes: frozenset[int]) -> bool:
    """Returns whether processes of the sandbox have all these sockets."""
    missing = {f"socket:[{inode}]" for inode in inodes}
    for pid in sandbox_pids(init_pid):
        missing.difference_update(descriptor_targets(pid))
        if not missing:
            return True
    return False


def sandbox_pids(init_pid: int) -> Iterator[int]:
    """Yields the processes of a sandbox; orphans are children of its init."""
    waiting = [init_pid]
    try:
        while waiting:
            pid = waiting.pop()
            yield pid
            waiting += _children(pid)
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        yield from (process.pid for process in ProcessTree().by_init([init_pid])[init_pid])


def _children(pid: int) -> list[int]:
    """Returns the children of all threads of a process. Raises FileNotFoundError: no such files."""
    children: list[int] = []
    with suppress(ProcessLookupError):  # it has ended
        for task in _list(f"/proc/{pid}/task"):
            file = Path(f"/proc/{pid}/task/{task}/children")
            try:
                children += map(int, file.read_bytes().split())
            except FileNotFoundError:
                if file.parent.exists():
                    raise
    return children


def descriptor_targets(pid: int) -> Iterator[str]:
    """Yields what the descriptors of a process are, of which some are closed meanwhile."""
    folder = f"/proc/{pid}/fd"
    with suppress(PermissionError, ProcessLookupError):
        for name in _list(folder):
            with suppress(FileNotFoundError, ProcessLookupError):
                yield os.readlink(f"{folder}/{name}")  # noqa: PTH115


def _list(folder: str) -> list[str]:
    """Returns the names in a folder of /proc; none when its process is gone."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return []


def read_sockets(table: Path, port: int | None = None) -> Iterator[_TcpSocket]:
    """Yields the TCP sockets of a table that have this port at an end, or all; see proc(5)."""
    text = b":" if port is None else f":{port:04X} ".encode()
    try:
        lines = table.read_bytes().splitlines()[1:]  # the first has the names of the columns
    except (FileNotFoundError, ProcessLookupError):  # the system has no IPv6, the process is gone
        return
    for line in lines:
        if text in line:
            _, local, remote, state, *rest = line.split()
            yield _TcpSocket(local, remote, state, int(rest[5]))


def _to_proc_text(address: str, port: int) -> bytes:
    """Returns an address as /proc writes it: its words of 32 bits in the machine's byte order.

    On most machines 127.0.0.1:80 is 0100007F:0050.
    """
    packed = ip_address(address).packed
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{text}:{port:04X}".encode()

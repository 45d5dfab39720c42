"""Bounds the sockets of a session, and what they keep of Linux's memory uncounted.

Answers of netlink and what lies in the error queues of UDP and TCP (reports of ICMP, timestamps of
what was sent) take up to a socket's receive buffer, and no file tells of all of it. But Linux tells
how many sockets a network has; none of them has a larger buffer than it had at first, since the
filter of system calls and the init see to that.

Their number is bounded for two more reasons. Linux hands a packet to all UDP sockets of a port, by
broadcast or multicast, in one step that nothing interrupts; and it cuts connections of everybody
on the host short while there are too many whose program has closed them (`tcp_max_orphans`).
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from era_kernels.sandbox.server.process_tree import read_proc_file

MAX_UDP_AT_PORT = 64  # UDP sockets of a session that are bound to the same port
ORPHANS_SHARE = 8  # a session may have `tcp_max_orphans` sockets of any kind, divided by it
LEAST_SOCKETS = 4096  # that a session may have on any host
FREE_SOCKETS = 256  # sockets of a session that count nothing beside what its group counts
LEAST_PER_SOCKET = 256 * 1024  # bytes that one may keep: `isolation.MAX_TCP_BUFFER`
_MAX_ORPHANS = "/proc/sys/net/ipv4/tcp_max_orphans"
_RMEM_DEFAULT = "/proc/sys/net/core/rmem_default"
# In /proc/meminfo: what is not Linux's own, or what it gives back.
_NOT_OWN = (
    "MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SocketCounts:
    """How many sockets a network has; `udp_at_port` are those of UDP at the port with the most."""

    all: int = 0
    udp_at_port: int = 0

    @classmethod
    def of_network(cls, pid: int) -> SocketCounts:
        """Counts those of the network of a process; all are 0 when it has ended (blocking)."""
        network, by_kind = f"/proc/{pid}/net", Counter[bytes]()
        for file in ("sockstat", "sockstat6"):
            for line in read_proc_file(f"{network}/{file}").splitlines():
                kind, _, number, *_ = *line.split(), b"", b"", b""  # such as `UDP6: inuse 2`
                by_kind[kind] += int(number) if number.isdigit() else 0
        udp = sum(count for kind, count in by_kind.items() if kind.startswith(b"UDP"))
        return cls(
            by_kind[b"sockets:"], _count_udp_at_port(network) if udp > MAX_UDP_AT_PORT else udp
        )

    def find_excess(self) -> str | None:
        """Returns a message about the bound that is exceeded, or None."""
        if self.udp_at_port > MAX_UDP_AT_PORT:
            return f"more than {MAX_UDP_AT_PORT} UDP sockets at one port"
        most = _most_sockets()
        return f"more than {most} sockets" if self.all > most else None


def _count_udp_at_port(network: str) -> int:
    """Returns how many UDP sockets the port has that has the most of them."""
    by_port: Counter[bytes] = Counter()
    for file in ("udp", "udp6", "udplite", "udplite6"):
        with suppress(OSError):  # it has ended, or there are no such sockets
            for line in Path(network, file).read_bytes().splitlines()[1:]:
                address = line.split(None, 2)[1]  # such as `0100007F:0FA0`
                by_port[address.rpartition(b":")[2]] += 1
    return max(by_port.values(), default=0)


class SocketMemory:
    """What the sockets of one session, which has a network of its own, may keep uncounted."""

    def __init__(self, init: int) -> None:
        """`init` is a pid."""
        self.size = 0  # bytes, when it was measured last
        self.excess: str | None = None  # a message about too many sockets, found then
        self._init = init
        self._host_before = _own_of_host()  # while there were few sockets

    def measure(self) -> None:
        """Sets `size` and `excess` (blocking).

        The size is as much as so many sockets can keep, and at most by how much Linux's own memory
        has grown on the whole host since there were few.
        """
        counts = SocketCounts.of_network(self._init)
        self.excess = counts.find_excess()
        counted = counts.all - FREE_SOCKETS
        if counted <= 0:
            self._host_before, self.size = _own_of_host(), 0
        else:
            pairs = zip(_own_of_host(), self._host_before, strict=True)
            growth = max(now - before for now, before in pairs)
            self.size = max(0, min(counted * _most_per_socket(), growth))


def _own_of_host() -> tuple[int, int]:
    """Returns what Linux has for itself on the whole host: in small pieces, and in all.

    Others who give memory back hide growth, so that it is looked for in both.
    """
    lines = (line.split() for line in read_proc_file("/proc/meminfo").decode().splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    total = sizes.get("MemTotal", 0) - sum(sizes.get(name, 0) for name in _NOT_OWN)
    return sizes.get("SUnreclaim", 0), total


@cache
def _most_per_socket() -> int:
    return max(LEAST_PER_SOCKET, _read_number(_RMEM_DEFAULT))


@cache
def _most_sockets() -> int:
    return max(LEAST_SOCKETS, _read_number(_MAX_ORPHANS) // ORPHANS_SHARE)


def _read_number(path: str) -> int:
    text = read_proc_file(path).strip()
    return int(text) if text.isdigit() else 0

"""Bounds what sockets of a session keep of Linux's memory that no control group counts.

Answers of netlink and what lies in the error queues of UDP and TCP (reports of ICMP, timestamps of
what was sent) take up to a socket's receive buffer, and no file tells of all of it. But Linux tells
how many sockets a network has; none of them has a larger buffer than it had at first, since the
filter of system calls and the init see to that.
"""

from __future__ import annotations

from functools import cache

from era_kernels.sandbox.server.process_tree import read_proc_file

FREE_SOCKETS = 256  # sockets of a session that count nothing beside what its group counts
LEAST_PER_SOCKET = 256 * 1024  # bytes that one may keep: `isolation.MAX_TCP_BUFFER`
_RMEM_DEFAULT = "/proc/sys/net/core/rmem_default"
# In /proc/meminfo: what is not Linux's own, or what it gives back.
_NOT_OWN = (
    "MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable",
)  # fmt: skip


class SocketMemory:
    """What the sockets of one session, which has a network of its own, may keep uncounted."""

    def __init__(self, init: int) -> None:
        """`init` is a pid."""
        self.size = 0  # bytes, when it was measured last
        self._init = init
        self._host_before = _own_of_host()  # while there were few sockets

    def measure(self) -> None:
        """Sets `size` (blocking).

        It is as much as so many sockets can keep, and at most by how much Linux's own memory has
        grown on the whole host since there were few.
        """
        counted = _count_sockets(self._init) - FREE_SOCKETS
        if counted <= 0:
            self._host_before, self.size = _own_of_host(), 0
        else:
            pairs = zip(_own_of_host(), self._host_before, strict=True)
            growth = max(now - before for now, before in pairs)
            self.size = max(0, min(counted * _most_per_socket(), growth))


def _count_sockets(pid: int) -> int:
    """Returns how many sockets the network of a process has; 0 when it has ended."""
    first, *_ = read_proc_file(f"/proc/{pid}/net/sockstat").split(b"\n", 1)
    words = first.split()  # sockets: used 7
    return int(words[2]) if len(words) > 2 else 0


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
    text = read_proc_file(_RMEM_DEFAULT).strip()
    return max(LEAST_PER_SOCKET, int(text) if text.isdigit() else 0)

"""Finds what files without a name take: they live as long as a process holds them.

A process holds files by descriptors, mappings, its executable and its directories; each thread may
have descriptors and directories of its own. All are reached through /proc, by links that lead to
the file itself, whatever its name was: see proc(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from era_kernels.safe_fs.usage import MIN_ENTRY_BYTES
from era_kernels.sandbox.server.process_tree import read_proc_file

_BLOCK = 512
_DELETED = b" (deleted)"  # at the end of a path in maps
_EXEC_CALLS = (b"59", b"322") if os.uname().machine == "x86_64" else (b"221", b"281")
_IN_FLIGHT = b"scm_fds:"  # in fdinfo of a unix socket: descriptors sent to it and not yet taken


@dataclass(slots=True)
class NamelessFiles:
    """What was found of files without a name."""

    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # device, inode → bytes
    hides_files: bool = False  # some processes may have more, of which nothing is known
    has_inexact: bool = False  # some sizes may be larger than was found

    @property
    def is_all(self) -> bool:
        """False when there may be more."""
        return not (self.hides_files or self.has_inexact)

    @property
    def total(self) -> int:
        """The bytes of all of them."""
        return sum(self.sizes.values())

    def find(
        self, pids: Collection[int], devices: Collection[int], max_bytes: int
    ) -> Iterator[None]:
        """Adds what the processes hold on these devices, in steps, one for each thread (blocking).

        `max_bytes`: when more is found, the rest does not matter. Some may be hidden when a process
        does not let itself be looked into (PR_SET_DUMPABLE), when descriptors are on their way
        through a socket, and when a thread is about to become another program.
        """
        for pid in pids:
            try:
                threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names, not paths
            except OSError:  # it has ended
                continue
            _add_mapped(pid, threads, devices, self)
            self.hides_files |= len(threads) > 1 and _is_in_exec(pid, threads)
            for thread in threads:
                _add_held(f"/proc/{pid}/task/{thread}", devices, self)
                yield
                if self.total > max_bytes:
                    return


def _is_in_exec(pid: int, threads: Collection[str]) -> bool:
    """Returns whether a thread of this process, which has several, is in a call of execve(2).

    Until all others have ended it holds its program by no descriptor, and cannot be stopped: for
    ever, where a tracer keeps another from ending (PTRACE_O_TRACEEXIT).
    """
    return any(
        read_proc_file(f"/proc/{pid}/task/{thread}/syscall").split(b" ", 1)[0] in _EXEC_CALLS
        for thread in threads
    )


def _add_held(process: str, devices: Collection[int], found: NamelessFiles) -> None:
    """Adds what a thread holds by its descriptors and its directories, and its executable."""
    for link in ("exe", "cwd", "root"):
        _add_file(f"{process}/{link}", devices, found)
    try:
        numbers = os.listdir(f"{process}/fd")  # noqa: PTH208 - names, not paths
    except OSError as error:
        found.hides_files |= isinstance(error, PermissionError)
        return
    for number in numbers:
        status = _add_file(f"{process}/fd/{number}", devices, found)
        if status is not None and stat.S_ISSOCK(status.st_mode):
            found.hides_files |= _has_descriptors_in_flight(f"{process}/fdinfo/{number}")


def _add_file(link: str, devices: Collection[int], found: NamelessFiles) -> os.stat_result | None:
    """Adds the file to which a link of /proc leads, if it has no name; returns its status."""
    try:
        status = os.stat(link)  # noqa: PTH116 - no path
    except OSError as error:
        found.hides_files |= isinstance(error, PermissionError)
        return None
    _add_nameless(status, devices, found)
    return status


def _add_nameless(status: os.stat_result, devices: Collection[int], found: NamelessFiles) -> None:
    if status.st_nlink == 0 and status.st_dev in devices:
        size = max(MIN_ENTRY_BYTES, status.st_blocks * _BLOCK)
        found.sizes[status.st_dev, status.st_ino] = size


def _has_descriptors_in_flight(fdinfo: str) -> bool:
    for line in read_proc_file(fdinfo).splitlines():
        if line.startswith(_IN_FLIGHT):
            return int(line.removeprefix(_IN_FLIGHT)) > 0
    return False


def _add_mapped(
    pid: int, threads: Collection[str], devices: Collection[int], found: NamelessFiles
) -> None:
    """Adds the mapped files of a process; any of its threads shows them, but not a dead one."""
    for thread in sorted(threads, key=int):
        try:
            mappings = _read_maps(f"/proc/{pid}/task/{thread}/maps")
        except OSError as error:
            found.hides_files |= isinstance(error, PermissionError)
            continue
        if mappings:
            break
    else:
        return
    extents: dict[tuple[int, int], int] = {}
    for line in mappings.split(b"\n"):  # a line feed in a name is written as \012
        if not line.endswith(_DELETED):
            continue
        addresses, _, offset, device, inode = line.split(None, 5)[:5]
        first, last = (int(one, 16) for one in addresses.split(b"-"))
        major, minor = (int(one, 16) for one in device.split(b":"))
        key = os.makedev(major, minor), int(inode)
        if key in found.sizes:
            continue
        try:  # root may follow the link; btrfs shows another device there than in maps
            name = f"/proc/{pid}/map_files/{first:x}-{last:x}"
            status = os.stat(name)  # noqa: PTH116 - no path
        except OSError:
            if key[0] in devices:
                extents[key] = max(extents.get(key, 0), int(offset, 16) + last - first)
            continue
        _add_nameless(status, devices, found)
    for key, size in extents.items():  # as much as is mapped, but it may be larger
        found.sizes[key] = size
        found.has_inexact = True


def _read_maps(path: str) -> bytes:
    """Reads all of a file of /proc, of whatever length. Raises OSError."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - no path
        return file.read()

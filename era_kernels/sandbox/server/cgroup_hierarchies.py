"""Finds where control groups can be made on this host, in either version; see cgroups(7).

Version 1 has a hierarchy for each controller, version 2 has one for all; a host may have both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from era_kernels.models import MIB, Limits
from era_kernels.own_cgroups import SELF, own_cgroups, read_or_empty
from era_kernels.sandbox.linux.cgroup import CGROUP_PROCS

# Microseconds over which the share of processors is counted: the default of both versions.
CPU_PERIOD = 100_000
MIN_CPU_QUOTA = 1000  # microseconds of a period; the kernel takes no less
INIT_PROCESSES = 1  # processes of a sandbox beside those of the session
# The group into which the server itself moves, since in version 2 only leaves have processes; in
# version 1 with a random end, see `OwnCpuGroup`.
SERVER_LEAF = "server.era"

# Controller → the limit that it enforces.
LIMIT_BY_CONTROLLER = {"memory": "memory", "pids": "processes", "cpu": "cpu"}
# Bounds what TCP and UDP hold of bytes that nobody has read. Version 1 counts them apart, and only
# where they are bounded; version 2 counts them with the rest. Without a bound a session takes as
# much as the whole host may have (net.ipv4.tcp_mem), and connections of everybody stall: so the
# share of all sessions is below that, which is a sixteenth of the host's memory at first.
SOCKET_MEMORY_V1 = "memory.kmem.tcp.limit_in_bytes?"
SOCKET_SHARE, ALL_SOCKETS_SHARE = 4, 20  # parts of the memory of one session, and of all
MIN_SOCKET_MEMORY = 16 * MIB
ControlFiles = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller, and the group of this server in its hierarchy."""

    name: str
    version: int
    directory: Path

    def control_files(self, limits: Limits) -> ControlFiles:
        """Returns file name → text for these limits. The names of optional files end in `?`."""
        return _control_files(self.name, self.version, limits)


def _control_files(controller: str, version: int, limits: Limits) -> ControlFiles:
    if controller == "memory" and limits.memory is not None:
        size = str(limits.memory)
        if version == 1:  # the second bounds memory and swap together
            return {
                "memory.limit_in_bytes": size,
                "memory.memsw.limit_in_bytes?": size,
                SOCKET_MEMORY_V1: str(max(MIN_SOCKET_MEMORY, limits.memory // SOCKET_SHARE)),
            }
        return {"memory.max": size, "memory.swap.max?": "0", "memory.oom.group?": "1"}
    if controller == "pids" and limits.processes is not None:
        return {"pids.max": str(limits.processes + INIT_PROCESSES)}
    if controller == "cpu" and limits.cpu is not None:
        quota = max(MIN_CPU_QUOTA, round(limits.cpu * CPU_PERIOD))
        if version == 1:
            return {"cpu.cfs_period_us": str(CPU_PERIOD), "cpu.cfs_quota_us": str(quota)}
        return {"cpu.max": f"{quota} {CPU_PERIOD}"}
    return {}


def server_control_files(version: int, max_bytes: int) -> ControlFiles:
    """Returns file name → text that bound the memory of all sessions of a server together.

    Linux then ends a process below this group and never the server, which is beside it. In version
    2 `memory.oom.group` stays 0 here, so that it ends one session, not all. Version 1 counts the
    groups below only with `memory.use_hierarchy`, which newer kernels have always on.
    """
    size = str(max_bytes)
    if version == 1:
        return {
            "memory.use_hierarchy?": "1",
            "memory.limit_in_bytes": size,
            "memory.memsw.limit_in_bytes?": size,
            SOCKET_MEMORY_V1: str(max(MIN_SOCKET_MEMORY, max_bytes // ALL_SOCKETS_SHARE)),
        }
    return {"memory.max": size, "memory.swap.max?": "0"}


def write_control_files(directory: Path, files: ControlFiles) -> None:
    """Writes a group's files, without optional files that this kernel lacks. Raises OSError."""
    for name, text in files.items():
        try:
            _write_file(directory / name.rstrip("?"), text)
        except FileNotFoundError:
            if not name.endswith("?"):
                raise


def find_controllers(process: Path = SELF) -> list[Controller]:
    """Returns this host's controllers that can limit sandboxes, with our groups (blocking)."""
    groups = own_cgroups(process)
    found = [
        Controller(name, 1, _without_leaf(groups[name]))
        for name in LIMIT_BY_CONTROLLER
        if name in groups
    ]
    unified = groups.get("")
    if unified is not None:
        base = _without_leaf(unified)
        delegated = read_or_empty(base / "cgroup.controllers").split()
        found += [Controller(name, 2, base) for name in LIMIT_BY_CONTROLLER if name in delegated]
    return found


def _without_leaf(group: Path) -> Path:
    """Returns the group; for a server's leaf the one above.

    A server that was started from within another server's leaf makes its groups beside it.
    """
    return group.parent if group.name.startswith(SERVER_LEAF) else group


def delegate(directory: Path, controllers: Iterable[str]) -> None:
    """Enables these controllers for children of a version 2 group (blocking). Raises OSError.

    Only a group without processes of its own may have such children, so the server moves into a
    leaf, with the processes that started it and those that it started. When any other process is
    in the group, nothing is moved.
    """
    change = " ".join(f"+{name}" for name in controllers)
    try:
        _write_file(directory / "cgroup.subtree_control", change)
    except OSError:
        family = _process_family()
        members = {int(pid) for pid in read_or_empty(directory / CGROUP_PROCS).split()}
        if not members or members - family:
            raise
        leaf = directory / SERVER_LEAF
        leaf.mkdir(exist_ok=True)
        for pid in members:
            with suppress(ProcessLookupError):
                _write_file(leaf / CGROUP_PROCS, str(pid))
        _write_file(directory / "cgroup.subtree_control", change)


def _process_family() -> set[int]:
    """Returns the pids of this process, its ancestors and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        # The name in parentheses may hold anything; behind it: state, ppid.
        fields = read_or_empty(entry / "stat").rpartition(")")[2].split()
        if fields:
            parents[int(entry.name)] = int(fields[1])
    return {pid for pid in parents if os.getpid() in _ancestry(pid, parents)} | set(
        _ancestry(os.getpid(), parents)
    )


def _ancestry(pid: int, parents: Mapping[int, int]) -> list[int]:
    pids = []
    while pid and pid not in pids:
        pids.append(pid)
        pid = parents.get(pid, 0)
    return pids


def _write_file(file: Path, text: str) -> None:
    """Writes a text in one write(2), as these files need; never creates a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)

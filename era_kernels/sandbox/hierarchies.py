"""Where control groups can be made on this host, in either version; see cgroups(7).

Version 1 has a hierarchy for each controller, version 2 has one for all; a host may have both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from era_kernels.models import Limits

PERIOD = 100_000  # microseconds in which the share of processors is counted, both versions' own
LEAST_QUOTA = 1000  # microseconds of it, by the kernel
INITS = 1  # processes of a sandbox beside those of the session
LEAF = "server.era"  # where the server itself goes, since in version 2 only leaves have processes
PROCESSES = "cgroup.procs"

# Which limit a controller enforces.
LIMITS = {"memory": "memory", "pids": "processes", "cpu": "cpu"}
Files = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The group in which this server is, for one controller."""

    controller: str
    version: int
    group: Path

    def files(self, limits: Limits) -> Files:
        """What to write where for these limits. Optional files end in `?`."""
        return _files(self.controller, self.version, limits)


def _files(controller: str, version: int, limits: Limits) -> Files:
    if controller == "memory" and limits.memory is not None:
        size = str(limits.memory)
        if version == 1:  # the second bounds memory and swap together
            return {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes?": size}
        return {"memory.max": size, "memory.swap.max?": "0", "memory.oom.group?": "1"}
    if controller == "pids" and limits.processes is not None:
        return {"pids.max": str(limits.processes + INITS)}
    if controller == "cpu" and limits.cpu is not None:
        quota = max(LEAST_QUOTA, round(limits.cpu * PERIOD))
        if version == 1:
            return {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(quota)}
        return {"cpu.max": f"{quota} {PERIOD}"}
    return {}


def write(group: Path, files: Files) -> None:
    """Write a group's files, those that this kernel has. Raises OSError."""
    for name, text in files.items():
        try:
            _put(group / name.rstrip("?"), text)
        except FileNotFoundError:
            if not name.endswith("?"):
                raise


def hierarchies(process: Path = Path("/proc/self")) -> list[Hierarchy]:
    """The controllers of this host that bound sandboxes, and our group in each (blocking)."""
    groups = _groups(process)
    found = [Hierarchy(name, 1, groups[name]) for name in LIMITS if name in groups]
    unified = groups.get("")
    if unified is not None:
        # One that was started from within a server's leaf belongs beside it.
        base = unified.parent if unified.name == LEAF else unified
        offered = _read(base / "cgroup.controllers").split()
        found += [Hierarchy(name, 2, base) for name in LIMITS if name in offered]
    return found


def delegate(group: Path, controllers: Iterable[str]) -> None:
    """Let children of a version 2 group have these controllers (blocking). Raises OSError.

    Only a group without processes of its own may have such children, so the server moves into a
    leaf; so do those that it was started by and those that it started. With anybody else in the
    group it is not ours to rearrange.
    """
    wish = " ".join(f"+{name}" for name in controllers)
    try:
        _put(group / "cgroup.subtree_control", wish)
    except OSError:
        ours = _relatives()
        there = {int(pid) for pid in _read(group / PROCESSES).split()}
        if not there or there - ours:
            raise
        leaf = group / LEAF
        leaf.mkdir(exist_ok=True)
        for pid in there:
            with suppress(ProcessLookupError):
                _put(leaf / PROCESSES, str(pid))
        _put(group / "cgroup.subtree_control", wish)


def _groups(process: Path) -> dict[str, Path]:
    """Controller → directory of this process's group; version 2 has the empty name."""
    member = {}
    for line in _read(process / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        member.update(dict.fromkeys(names.split(","), path))
    found = {}
    for kind, root, point, options in _mounts(process):
        for name in [""] if kind == "cgroup2" else options:
            if name in member and (inside := _below(member[name], root)) is not None:
                found[name] = Path(point, inside)
    return found


def _mounts(process: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Mounted hierarchies: type, root within the hierarchy, mount point, options."""
    for line in _read(process / "mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield kind, place.split()[3], place.split()[4], options.split(",")


def _below(path: str, root: str) -> str | None:
    """A group's path as seen from the root of a mount; None where it is not below it."""
    if root == "/":
        return path.lstrip("/")
    if path == root or path.startswith(root + "/"):
        return path[len(root) :].lstrip("/")
    return None


def _relatives() -> set[int]:
    """This process, those above it and those below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        # The name in parentheses may hold anything; behind it: state, ppid.
        fields = _read(entry / "stat").rpartition(")")[2].split()
        if fields:
            parents[int(entry.name)] = int(fields[1])
    return {pid for pid in parents if os.getpid() in _line(pid, parents)} | set(
        _line(os.getpid(), parents)
    )


def _line(pid: int, parents: Mapping[int, int]) -> list[int]:
    line = []
    while pid and pid not in line:
        line.append(pid)
        pid = parents.get(pid, 0)
    return line


def _put(file: Path, text: str) -> None:
    """One write, as these files want it; none of them is made by writing."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(file: Path) -> str:
    """A file of the kernel; empty when it is not there."""
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""

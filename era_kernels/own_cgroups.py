"""Finds the control groups that this process is in, and their bound on memory; see cgroups(7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SELF = Path("/proc/self")
# The bound on memory of one group, in version 2 and in version 1.
_MEMORY_BOUNDS = ("memory.max", "memory.limit_in_bytes")
# In `memory.stat` of version 1: the least bound of a group and of those above it, which a container
# may not see.
_LEAST_MEMORY_BOUND = "hierarchical_memory_limit"


def own_cgroups(process: Path = SELF) -> dict[str, Path]:
    """Returns controller → directory of this process's group; version 2 has the empty name."""
    member = {}
    for line in read_or_empty(process / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        member.update(dict.fromkeys(names.split(","), path))
    found = {}
    for kind, root, point, options in _mounts(process):
        for name in [""] if kind == "cgroup2" else options:
            if name in member and (inside := _path_in_mount(member[name], root)) is not None:
                found[name] = Path(point, inside)
    return found


def memory_bound(process: Path = SELF) -> int | None:
    """Returns the bytes that the groups of this process let it use, those above included.

    None where no group bounds it; version 1 calls that a bound of almost 2^63.
    """
    groups = own_cgroups(process)
    return min(
        (
            bound
            for name in ("", "memory")
            if name in groups
            for bound in _memory_bounds(groups[name])
        ),
        default=None,
    )


def read_or_empty(file: Path) -> str:
    """Returns the text of a kernel's file; empty when it does not exist."""
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""


def _memory_bounds(group: Path) -> Iterator[int]:
    for directory in (group, *group.parents):
        for name in _MEMORY_BOUNDS:
            text = read_or_empty(directory / name).strip()
            if text.isdecimal():  # else "max", or no such file
                yield int(text)
    for line in read_or_empty(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == _LEAST_MEMORY_BOUND:
            yield int(value)


def _mounts(process: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yields the mounted hierarchies: type, root in the hierarchy, mount point, options."""
    for line in read_or_empty(process / "mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield kind, mount.split()[3], mount.split()[4], options.split(",")


def _path_in_mount(path: str, root: str) -> str | None:
    """Returns a group's path relative to the root of a mount; None where it is not below it."""
    if root == "/":
        return path.lstrip("/")
    if path == root or path.startswith(root + "/"):
        return path[len(root) :].lstrip("/")
    return None

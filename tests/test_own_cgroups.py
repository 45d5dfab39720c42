"""The control groups of this process, and what they leave it of the host's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.own_cgroups import memory_bound

GIB = 1024**3
UNBOUNDED_V1 = "9223372036854771712\n"


def fake_process(directory: Path, kind: str, member: str) -> tuple[Path, Path]:
    """A directory that looks like a process in /proc, and the mount point of its hierarchy."""
    mount, process = directory / "mount", directory / "proc"
    process.mkdir()
    mount.mkdir()
    options = "rw" if kind == "cgroup2" else "rw,memory"
    (process / "mountinfo").write_text(f"29 23 0:26 / {mount} rw - {kind} {kind} {options}\n")
    (process / "cgroup").write_text(member)
    return process, mount


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, None),
        ({"": "max"}, None),
        ({"a/b": str(GIB)}, GIB),
        ({"a/b": "max", "a": str(2 * GIB)}, 2 * GIB),  # a limit above binds as well
        ({"a/b": str(3 * GIB), "a": "max", "": str(2 * GIB)}, 2 * GIB),
        ({"a/b": str(GIB), "a": str(2 * GIB)}, GIB),
        ({"c": str(GIB)}, None),  # of somebody else
    ],
)
def test_version_2(tmp_path: Path, bounds: dict[str, str], expected: int | None) -> None:
    """The least of `memory.max` of the process's group and of all above it."""
    process, mount = fake_process(tmp_path, "cgroup2", "0::/a/b\n")
    for group in ("a/b", "c"):
        (mount / group).mkdir(parents=True)
    for group, text in bounds.items():
        (mount / group / "memory.max").write_text(f"{text}\n")
    assert memory_bound(process) == expected


@pytest.mark.parametrize(
    ("bounds", "stat", "expected"),
    [
        ({"a/b": UNBOUNDED_V1}, "", int(UNBOUNDED_V1)),
        ({"a/b": f"{GIB}\n"}, "", GIB),
        ({"a/b": UNBOUNDED_V1, "a": f"{GIB}\n"}, "", GIB),
        # A container that sees only its own part is told of what is above in another file.
        ({"a/b": f"{4 * GIB}\n"}, f"cache 0\nhierarchical_memory_limit {2 * GIB}\n", 2 * GIB),
    ],
)
def test_version_1(tmp_path: Path, bounds: dict[str, str], stat: str, expected: int) -> None:
    """The least of `memory.limit_in_bytes`, and of what `memory.stat` tells of those above."""
    process, mount = fake_process(tmp_path, "cgroup", "4:memory:/a/b\n0::/\n")
    (mount / "a/b").mkdir(parents=True)
    for group, text in bounds.items():
        (mount / group / "memory.limit_in_bytes").write_text(text)
    if stat:
        (mount / "a/b/memory.stat").write_text(stat)
    assert memory_bound(process) == expected


def test_no_groups(tmp_path: Path) -> None:
    """A host without control groups bounds nothing."""
    assert memory_bound(tmp_path) is None

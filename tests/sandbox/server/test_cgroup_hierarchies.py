"""Where groups can be made, read from what real hosts show."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.sandbox.server.cgroup_hierarchies import (
    Controller,
    find_controllers,
    write_control_files,
)

V1 = """\
30 29 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
35 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
36 30 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory
37 30 0:32 / /sys/fs/cgroup/pids rw,nosuid shared:17 - cgroup cgroup rw,pids
38 30 0:33 / /sys/fs/cgroup/systemd rw,nosuid shared:18 - cgroup cgroup rw,xattr,name=systemd
"""
V1_MEMBER = """\
5:cpu,cpuacct:/system.slice/era.service
4:memory:/system.slice/era.service
3:pids:/system.slice/era.service
1:name=systemd:/system.slice/era.service
"""
CONTAINER = """\
35 30 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct
36 30 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
37 30 0:32 /docker/other /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
"""
CONTAINER_MEMBER = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc/x\n3:pids:/docker/abc\n"


def fake_proc_directory(directory: Path, mounts: str, member: str) -> Path:
    """A directory that looks like a process in /proc."""
    (directory / "mountinfo").write_text(mounts)
    (directory / "cgroup").write_text(member)
    return directory


def test_version_1(tmp_path: Path) -> None:
    """Each controller has its own hierarchy; two may share one."""
    assert find_controllers(fake_proc_directory(tmp_path, V1, V1_MEMBER)) == [
        Controller("memory", 1, Path("/sys/fs/cgroup/memory/system.slice/era.service")),
        Controller("pids", 1, Path("/sys/fs/cgroup/pids/system.slice/era.service")),
        Controller("cpu", 1, Path("/sys/fs/cgroup/cpu,cpuacct/system.slice/era.service")),
    ]


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """The mount shows a part of the hierarchy; a group that is not below it cannot be used."""
    assert find_controllers(fake_proc_directory(tmp_path, CONTAINER, CONTAINER_MEMBER)) == [
        Controller("memory", 1, Path("/sys/fs/cgroup/memory/x")),
        Controller("cpu", 1, Path("/sys/fs/cgroup/cpu,cpuacct")),
    ]


@pytest.mark.parametrize("leaf", ["", "/server.era"])
def test_version_2(tmp_path: Path, leaf: str) -> None:
    """Controllers are those that were delegated; a server's leaf is no base for another."""
    group = tmp_path / "unified" / "user.slice" / "era.service"
    (group / leaf.strip("/")).mkdir(parents=True)
    (group / "cgroup.controllers").write_text("memory pids\n")
    mounts = f"29 23 0:26 / {tmp_path}/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
    shown = fake_proc_directory(tmp_path, mounts, f"0::/user.slice/era.service{leaf}\n")
    assert find_controllers(shown) == [Controller("memory", 2, group), Controller("pids", 2, group)]


def test_nothing(tmp_path: Path) -> None:
    """A host without any has none."""
    assert find_controllers(tmp_path) == []


def test_what_may_be_missing(tmp_path: Path) -> None:
    """A file that not every kernel has is passed over; another that is missing is an error."""
    write_control_files(tmp_path, {"memory.swap.max?": "0"})
    with pytest.raises(FileNotFoundError):
        write_control_files(tmp_path, {"memory.max": "0"})
    assert list(tmp_path.iterdir()) == []

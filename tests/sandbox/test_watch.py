"""One look at a sandbox: what is noticed, and when."""

from __future__ import annotations

import os
from pathlib import Path

from era_kernels.models import Limits
from era_kernels.sandbox import watch
from era_kernels.sandbox.population import Process
from era_kernels.sandbox.watch import MIB, Watch

PROCESS = Process(pid=1, parent=0, cpu=7, threads=1, started=1, resident=0)


def test_what_is_written_in_the_tick_of_a_look(tmp_path: Path) -> None:
    """A process that writes just after a look, and then sleeps, is noticed by the next one."""
    look = Watch(1, tmp_path, Limits(workspace=MIB))
    assert look.exceeded([PROCESS]) is None
    (tmp_path / "large").write_bytes(bytes(2 * MIB))
    look.disks[0].next_walk = 0
    assert look.exceeded([PROCESS]) == "workspace larger than 1 MB"


def test_an_idle_sandbox_is_left_alone(tmp_path: Path) -> None:
    """Where nothing happens, nothing is measured any more."""
    look = Watch(1, tmp_path, Limits(workspace=MIB))
    for _ in range(watch.MEASURINGS):
        look.disks[0].next_walk = 0
        assert look.exceeded([PROCESS]) is None
    look.disks[0].next_walk = 0
    (tmp_path / "large").write_bytes(bytes(2 * MIB))  # by nobody in the sandbox
    assert look.exceeded([PROCESS]) is None


def test_what_is_written_beside_the_workspace(tmp_path: Path) -> None:
    """Other directories have a bound of their own, all of them together."""
    workspace, *beside = (tmp_path / name for name in ("a", "b", "c"))
    for directory in (workspace, *beside):
        directory.mkdir()
    for directory in beside:
        with (directory / "large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, watch.BESIDE // 2 + MIB)
    look = Watch(1, workspace, Limits(workspace=MIB), beside=beside)
    assert look.exceeded([PROCESS]) == "files beside the workspace larger than 512 MB"
    for directory in beside:
        (directory / "large").unlink()
    look = Watch(1, workspace, Limits(workspace=MIB), beside=beside)
    assert look.exceeded([PROCESS]) is None

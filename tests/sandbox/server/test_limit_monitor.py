"""One check of a sandbox: what is noticed, and when."""

from __future__ import annotations

import os
from pathlib import Path

from era_kernels.models import Limits
from era_kernels.sandbox.server import limit_monitor
from era_kernels.sandbox.server.limit_monitor import MIB, MonitoredSandbox
from era_kernels.sandbox.server.process_tree import ProcStat

PROCESS = ProcStat(pid=1, parent_pid=0, cpu_ns=7, threads=1, start_time=1, resident_bytes=0)


def test_what_is_written_in_the_tick_of_a_look(tmp_path: Path) -> None:
    """A process that writes just after a check, and then sleeps, is noticed by the next one."""
    monitored = MonitoredSandbox(1, tmp_path, Limits(workspace=MIB))
    assert monitored.find_excess([PROCESS], 10) is None
    (tmp_path / "large").write_bytes(bytes(2 * MIB))
    monitored.disk_quotas[0].next_measurement = 0
    assert monitored.find_excess([PROCESS], 10) == "workspace larger than 1 MB"


def test_an_idle_sandbox_is_left_alone(tmp_path: Path) -> None:
    """Where nothing happens, nothing is measured any more."""
    monitored = MonitoredSandbox(1, tmp_path, Limits(workspace=MIB))
    for _ in range(limit_monitor.MEASUREMENTS_PER_CHANGE):
        monitored.disk_quotas[0].next_measurement = 0
        assert monitored.find_excess([PROCESS]) is None
    monitored.disk_quotas[0].next_measurement = 0
    (tmp_path / "large").write_bytes(bytes(2 * MIB))  # by nobody in the sandbox
    assert monitored.find_excess([PROCESS]) is None


def test_what_is_written_beside_the_workspace(tmp_path: Path) -> None:
    """Other directories have a bound of their own, all of them together."""
    workspace, *beside = (tmp_path / name for name in ("a", "b", "c"))
    for directory in (workspace, *beside):
        directory.mkdir()
    for directory in beside:
        with (directory / "large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, limit_monitor.MIN_OTHER_WRITABLE // 2 + MIB)
    monitored = MonitoredSandbox(1, workspace, Limits(workspace=MIB), other_writable=beside)
    assert monitored.find_excess([PROCESS]) == "files beside the workspace larger than 512 MB"
    for directory in beside:
        (directory / "large").unlink()
    monitored = MonitoredSandbox(1, workspace, Limits(workspace=MIB), other_writable=beside)
    assert monitored.find_excess([PROCESS]) is None

"""Processes stand still from outside, and go on as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat
from era_kernels.sandbox.server.stopped_processes import StoppedProcesses
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses
from tests.sandbox.sandboxes import count_descriptors
from tests.waiting import wait_until

COUNTING = """
import os, sys, threading, time
def count(path):
    file, n = os.open(path, os.O_WRONLY | os.O_CREAT), 0
    while True:
        n += 1
        os.pwrite(file, b'%09d' % n, 0)
threading.Thread(target=count, args=(sys.argv[1] + '/t',)).start()
if os.fork() == 0: count(sys.argv[1] + '/c')
count(sys.argv[1] + '/p')
"""


@contextmanager
def running(code: str, *arguments: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code, *arguments], process_group=0) as process:
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def members(pid: int) -> list[ProcStat]:
    return ProcessTree().by_init([pid])[pid]


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_all_of_a_family(tmp_path: Path) -> None:
    """Children and threads stand still, and go on; no descriptor is left."""
    before = count_descriptors(os.getpid())
    with running(COUNTING, str(tmp_path)) as pid:
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == 3)
        stopped = StoppedProcesses(UnseenProcesses(0))
        assert wait_until(lambda: stopped.stop(members(pid)))
        first = contents(tmp_path)
        assert not wait_until(lambda: contents(tmp_path) != first, 0.3)
        stopped.resume()
        assert wait_until(lambda: all(contents(tmp_path)[name] != first[name] for name in first))
        stopped.resume()
        assert stopped.stop([ProcStat(1 << 22, 1, 0, 1, 1, 0)])  # one that is gone
    assert count_descriptors(os.getpid()) == before


def test_one_that_was_stopped_before(tmp_path: Path) -> None:
    """What the session itself stopped stays stopped."""
    with running("import signal; signal.pause()") as pid:
        os.kill(pid, signal.SIGSTOP)
        assert wait_until(lambda: state(pid) == "T")
        stopped = StoppedProcesses(UnseenProcesses(0))
        assert stopped.stop(members(pid))
        assert not stopped.is_any
        stopped.resume()
        assert not wait_until(lambda: state(pid) != "T", 0.2)


def test_one_that_is_continued_by_others(tmp_path: Path) -> None:
    """It is stopped again."""
    with running("import signal; signal.pause()") as pid:
        stopped = StoppedProcesses(UnseenProcesses(0))
        assert wait_until(lambda: stopped.stop(members(pid)))
        os.kill(pid, signal.SIGCONT)
        assert not stopped.stop(members(pid))
        assert wait_until(lambda: stopped.stop(members(pid)))
        stopped.forget()
        assert not stopped.is_any
        assert state(pid) == "T"

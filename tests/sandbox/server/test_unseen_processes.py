"""Processes that no list shows are noticed, and others are not taken for such."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from era_kernels.sandbox.linux.cgroup import CGROUP_PROCS, kill_members
from era_kernels.sandbox.server.cgroups import CgroupTree
from era_kernels.sandbox.server.process_tree import ProcessTree
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses
from tests.waiting import wait_until

# Orphans become children of the first process, which does not wait for them.
HEAD = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.stdin.readline()
if os.fork(): print("begun", flush=True); time.sleep(60)
"""
CHAIN = "while os.path.exists(sys.argv[1]):\n    if os.fork(): os._exit(0)"
CHILD = "time.sleep(60)"


@contextmanager
def running(code: str, directory: Path, *groups: Path) -> Iterator[int]:
    go_on = directory / "go-on"
    go_on.touch()
    arguments = [sys.executable, "-ISEc", HEAD + code, str(go_on)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for group in groups:
                (group / CGROUP_PROCS).write_text(str(process.pid))
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "begun\n"
            yield process.pid
        finally:
            go_on.unlink()
            process.kill()
            kill_members(groups)


def looks(unseen: UnseenProcesses, head: int) -> list[bool]:
    """Returns whether it is told of others, at ten looks one after the other."""
    return [unseen.are_there(ProcessTree().by_init([head])[head]) for _ in range(10)]


def test_without_groups(tmp_path: Path) -> None:
    """The newest processes tell of a chain sooner or later; a child that is known tells nothing."""
    with running(CHAIN, tmp_path) as head:
        assert wait_until(lambda: any(looks(UnseenProcesses(head), head)), 10)
    with running(CHILD, tmp_path) as head:
        assert not any(looks(UnseenProcesses(head), head))


def test_with_groups(tmp_path: Path) -> None:
    """A group counts what is not seen."""
    tree = CgroupTree.open()
    try:
        if "processes" not in tree.enforced_limits:
            pytest.skip("this host has no groups that count processes")
        for code, expected in ((CHAIN, True), (CHILD, False)):
            group = tree.create_cgroup()
            with running(code, tmp_path, *group.directories) as head:
                unseen = UnseenProcesses(head, group.directories)
                assert wait_until(lambda u=unseen, h=head, e=expected: looks(u, h) == [e] * 10, 5)
            assert wait_until(lambda g=group: not kill_members(g.directories))
            group.remove()
    finally:
        tree.close()

"""Which process belongs to which sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat, read_stat
from tests.waiting import wait_until

TREE = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        print("ready", flush=True)
    time.sleep(600)
sys.stdin.read()
"""


def spawn_tree() -> subprocess.Popen[str]:
    """A process with a child and a grandchild."""
    process = subprocess.Popen(
        [sys.executable, "-c", TREE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_families() -> None:
    """Each init comes with all its descendants, once, also those that were unrelated before."""
    process_tree = ProcessTree()
    first, second = spawn_tree(), spawn_tree()
    try:
        assert wait_until(lambda: len(process_tree.by_init([first.pid])[first.pid]) == 3)
        pair = [first.pid, second.pid]
        assert wait_until(lambda: all(len(f) == 3 for f in process_tree.by_init(pair).values()))
        by_init = process_tree.by_init([first.pid, second.pid])
        assert {len(family) for family in by_init.values()} == {3}
        assert len({one.pid for family in by_init.values() for one in family}) == 6
        assert os.getpid() not in {one.pid for family in by_init.values() for one in family}
    finally:
        for process in (first, second):
            os.killpg(process.pid, 9)
            process.communicate()
    assert wait_until(lambda: process_tree.by_init([first.pid]) == {first.pid: []})


def test_a_new_init_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had begun before an init is none of its descendants, and is not read again."""
    process_tree, read = ProcessTree(), list[int]()

    def read_and_note(pid: int) -> ProcStat | None:
        read.append(pid)
        return read_stat(pid)

    monkeypatch.setattr("era_kernels.sandbox.server.process_tree.read_stat", read_and_note)
    time.sleep(0.02)  # two ticks of the start times
    first, second = spawn_tree(), spawn_tree()
    try:
        process_tree.by_init([first.pid])
        assert os.getpid() in read
        read.clear()
        by_init = process_tree.by_init([first.pid, second.pid])
        assert len(by_init[second.pid]) == 3
        assert os.getpid() not in read
    finally:
        for process in (first, second):
            os.killpg(process.pid, 9)
            process.communicate()


def test_a_parent_that_ends_during_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process hides behind a parent that is there when the look begins, and gone at its end."""
    init, parent, child, grandchild = 10, 30, 20, 40
    parents = {init: 0, parent: init, child: parent, grandchild: child}

    def read(pid: int) -> ProcStat | None:
        if pid == child and parent in parents:  # it ends as soon as its child has been read
            del parents[parent]
            parents[child] = init
            return ProcStat(child, parent, 0, 1, child, 0)
        return ProcStat(pid, parents[pid], 0, 1, pid, 0) if pid in parents else None

    module = "era_kernels.sandbox.server.process_tree"
    entries = {pid: pid for pid in (init, child, parent, grandchild)}
    monkeypatch.setattr(f"{module}._list_entries", lambda: entries)
    monkeypatch.setattr(f"{module}.read_stat", read)
    process_tree = ProcessTree()
    for _ in range(2):
        found = {one.pid for one in process_tree.by_init([init])[init]}
        assert found == {init, child, grandchild}


FORK_AS = """
import os, sys, time
wanted = int(sys.stdin.readline())
while True:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(wanted - 1))
    child = os.fork()
    if child == 0:
        time.sleep(600)
    if child == wanted:
        print("there", flush=True)
        time.sleep(600)
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


def test_a_pid_that_is_used_again() -> None:
    """A process with the pid of one that was nobody's is seen at once."""
    if os.geteuid() != 0:
        pytest.skip("needs root to choose a pid")
    process_tree = ProcessTree()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen(["/bin/sleep", "600"])
    init = subprocess.Popen([sys.executable, "-c", FORK_AS], start_new_session=True, **pipes)
    try:
        assert init.stdin is not None and init.stdout is not None
        assert len(process_tree.by_init([init.pid])[init.pid]) == 1
        other.kill()
        other.wait()
        init.stdin.write(f"{other.pid}\n")
        init.stdin.flush()
        assert init.stdout.readline() == "there\n"
        found = {one.pid for one in process_tree.by_init([init.pid])[init.pid]}
        assert found == {init.pid, other.pid}
    finally:
        os.killpg(init.pid, 9)
        init.communicate()


def test_rest() -> None:
    """Who did nothing needs no look; who did anything, or is new or gone, is seen."""
    process_tree = ProcessTree()
    code = "import os, sys\nfor line in sys.stdin: os.fork() or sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert not process_tree.have_rested([process.pid])
        assert wait_until(
            lambda: (
                bool(process_tree.by_init([process.pid]))
                and process_tree.have_rested([process.pid])
            )
        )
        [one] = process_tree.by_init([process.pid])[process.pid]
        assert one.pid == process.pid
        assert not process_tree.have_rested([process.pid, os.getpid()])
        process.stdin.write(b"fork\n")
        process.stdin.flush()
        assert wait_until(lambda: not process_tree.have_rested([process.pid]))
        assert wait_until(lambda: len(process_tree.by_init([process.pid])[process.pid]) == 2)
        process.stdin.close()
        process.wait()
        assert wait_until(lambda: not process_tree.by_init([process.pid])[process.pid])


def test_an_init_that_answers_rests() -> None:
    """What an init does without a fork and without a child's end is no activity; those are."""
    process_tree = ProcessTree()
    code = "import os, sys\nfor line in sys.stdin.buffer.raw:\n  exec(line); os.write(1, b'.')"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def ask(line: bytes) -> None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            process.stdout.read(1)

        def look() -> list[ProcStat]:
            return process_tree.by_init([process.pid])[process.pid]

        def has_rested() -> bool:
            return bool(look()) and process_tree.have_rested([process.pid])

        for _ in range(3):  # the first answers take memory
            ask(b"pass")
        assert wait_until(has_rested)
        [before] = look()
        ask(b"pass")
        assert process_tree.have_rested([process.pid])
        assert look() == [before]
        ask(b"os.fork() or os._exit(0)")
        assert wait_until(lambda: not process_tree.have_rested([process.pid]))
        assert look()[0] != before
        assert wait_until(has_rested)
        reaped = next(one for one in look() if one.pid == process.pid)
        ask(b"os.wait()")
        assert not process_tree.have_rested([process.pid])
        assert look() != [reaped]
        process.kill()


def test_what_is_told(tmp_path: Path) -> None:
    """Parent, threads and memory of a process, whatever its name; nothing of one that is gone."""
    own = read_stat(os.getpid())
    assert own is not None
    assert own.parent_pid == os.getppid()
    assert own.threads >= 1 and own.resident_bytes > 1024 * 1024
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as process:
        shown = read_stat(process.pid)
        process.kill()
    assert shown is not None and shown.parent_pid == os.getpid()
    assert read_stat(process.pid) is None


def test_the_smallest_step_shows() -> None:
    """One call of the system changes a process's time, which a tick of 10 ms would hide."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        seen = set()
        for _ in range(5):
            os.write(process.stdin.fileno(), b"x")
            os.read(process.stdout.fileno(), 1)
            assert wait_until(lambda: _sleeps(process.pid))
            idle = read_stat(process.pid)
            assert idle is not None and idle == read_stat(process.pid)
            seen.add(idle.cpu_ns)
        assert len(seen) == 5
        process.stdin.close()


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "S"

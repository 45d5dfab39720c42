"""A sandbox is ended from outside, and not called ended before nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from era_kernels.errors import EndUnfinished
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.linux.process_kill import kill_listed
from era_kernels.sandbox.server import sandbox_kill
from era_kernels.sandbox.server.process_tree import Family, list_by_uid, read_stat
from era_kernels.sandbox.server.sandbox_kill import SandboxKill, end_all
from tests.sandbox.sandboxes import (
    new_sandbox,
    open_sandboxes,
    running_pids,
    spawn_stubborn,
)
from tests.waiting import wait_until

FREE_UID = 1_899_990_001  # that no session and no other test has
# A process whose first thread has ended before another.
HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@contextmanager
def sleepers(count: int, **options: object) -> Iterator[list[subprocess.Popen[bytes]]]:
    children = [subprocess.Popen(["sleep", "60"], **options) for _ in range(count)]  # type: ignore[call-overload]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_only_what_is_still_listed_is_killed() -> None:
    """A pid that has left the list meanwhile belongs to somebody else."""
    with sleepers(3) as (first, second, third):
        lists = [[first.pid, second.pid], [second.pid, third.pid]]
        assert kill_listed(lambda: lists.pop(0)) == 2
        assert second.wait(10) == -signal.SIGKILL
        assert [first.poll(), third.poll()] == [None, None]


def test_many_are_killed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes than may be held at once are all killed; the dead are no error."""
    monkeypatch.setattr("era_kernels.sandbox.linux.process_kill.BATCH", 2)
    with sleepers(5) as children:
        children[0].kill()
        children[0].wait()
        assert kill_listed(lambda: [child.pid for child in children]) == 5
        assert {child.wait(10) for child in children} == {-signal.SIGKILL}


def test_family_remembers_orphans() -> None:
    """A descendant is found after its parent has died, and a zombie is no member that lives."""
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); "
    command = [sys.executable, "-c", code + "time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        orphan = int(child.stdout.readline())
        head = read_stat(child.pid)
        assert head is not None
        family = Family(head)
        assert family.find() == {child.pid, orphan}
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert family.find() == {orphan}
        kill_listed(family.find)
        assert wait_until(lambda: not family.find())


def test_a_process_without_its_first_thread_lives() -> None:
    """Linux calls such a process a zombie; its other threads run on."""
    with subprocess.Popen([sys.executable, "-c", HEADLESS], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.2)
        stat = read_stat(child.pid)
        assert stat is not None
        assert not stat.is_dead
        assert list_by_uid(os.getuid()) >= {child.pid}
        kill_listed(lambda: [child.pid])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
async def test_a_uid_is_emptied() -> None:
    """Without groups and namespaces all processes of the session's uid end, and no others."""
    spec = SandboxSpec(kind=IsolationKind.LANDLOCK, uid=FREE_UID)
    with sleepers(4, user=FREE_UID) as children, sleepers(1) as (other,):
        end = SandboxKill(None, spec)
        await end.finish()
        assert {child.wait(10) for child in children} == {-signal.SIGKILL}
        assert other.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
async def test_a_uid_is_emptied_of_what_no_list_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that fork and end before a list of them is read end, too."""
    monkeypatch.setattr(sandbox_kill, "list_by_uid", lambda uid: set())
    with sleepers(2, user=FREE_UID) as children:
        end = SandboxKill(None, SandboxSpec(kind=IsolationKind.LANDLOCK, uid=FREE_UID))
        await end.finish()
        assert {child.wait(10) for child in children} == {-signal.SIGKILL}


async def test_who_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """aclose raises, nothing is given back, and all of it happens when the end comes."""
    monkeypatch.setattr(sandbox_kill, "END_TIMEOUT", 0.2)
    async with open_sandboxes() as sandboxes:
        sandbox = await new_sandbox(sandboxes)
        pids = await spawn_stubborn(sandbox)
        stuck = asyncio.Event()
        finish = sandbox._end.finish

        async def finish_late() -> None:
            await stuck.wait()
            await finish()

        monkeypatch.setattr(sandbox._end, "finish", finish_late)
        for _ in range(2):
            with pytest.raises(EndUnfinished, match=r"0\.2 seconds"):
                await sandbox.aclose("session deleted")
        await end_all([sandbox.aclose])  # logs it
        assert sandbox.runtime_directory.exists()
        stuck.set()
        monkeypatch.setattr(sandbox_kill, "END_TIMEOUT", 30.0)
        await sandbox.aclose()
        assert running_pids(pids) == []
        assert not sandbox.runtime_directory.exists()
        assert (await sandbox.ended).description == "session deleted"

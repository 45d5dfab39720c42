"""All processes of a session are stopped in one step, those that no list shows as well."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from era_kernels.sandbox.init import signal_all
from era_kernels.sandbox.linux import landlock
from era_kernels.sandbox.server import stop_all
from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat, read_proc_file
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.stop_all import StopAll
from era_kernels.sandbox.server.stopped_processes import StoodStill, StoppedProcesses
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses
from tests.conftest import loop
from tests.sandbox.sandboxes import wait_for_lines
from tests.sandbox.tiers import open_sandbox, open_tier, program
from tests.waiting import until, wait_until

io_loop = pytest.fixture(loop, scope="module")

# One that stopped itself, one that sleeps, and a chain: each counts, forks the next and ends.
CHAIN = """
import ctypes, mmap, os, signal, sys, time
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: nobody waits for the dead
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
os.ftruncate(file, 8)
count = ctypes.c_long.from_buffer(mmap.mmap(file, 8))
stopped = os.fork()
if stopped == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
if os.fork():
    print("begun", flush=True)
    time.sleep(600)
clone, end = (56, 231) if os.uname().machine == "x86_64" else (220, 94)
call = libc.syscall
while True:
    count.value += 1
    if call(clone, 17, 0, 0, 0, 0) > 0:  # SIGCHLD
        call(end, 0)
"""

# A tracer that hands on all signals, as strace does, and its child, which counts.
TRACED = """
import ctypes, os, sys
ptrace = ctypes.CDLL(None).ptrace
child = os.fork()
if child == 0:
    file, count = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666), 0
    while True:
        count += 1
        os.pwrite(file, count.to_bytes(8, "little"), 0)
if ptrace(0x4206, child, None, None):  # PTRACE_SEIZE
    sys.exit("not allowed")
print("begun", flush=True)
while os.WIFSTOPPED(status := os.waitpid(child, 0)[1]):
    is_event = status >> 16 == 128  # PTRACE_EVENT_STOP: PTRACE_LISTEN leaves it stopped
    is_group_stop = is_event and os.WSTOPSIG(status) == 19  # SIGSTOP
    handed_on = 0 if is_event else os.WSTOPSIG(status)
    ptrace(0x4208 if is_group_stop else 7, child, None, ctypes.c_void_p(handed_on))  # PTRACE_CONT
"""


@dataclass
class Session:
    """A session in which a chain runs."""

    sandbox: Sandbox
    count_file: Path

    @property
    def init(self) -> int:
        assert self.sandbox.pid is not None
        return self.sandbox.pid

    @property
    def count(self) -> int:
        """How many processes the chain had."""
        found: int = struct.unpack("q", self.count_file.read_bytes())[0]
        return found

    def find(self) -> list[ProcStat]:
        return ProcessTree().by_init([self.init])[self.init]

    def stopped(self) -> StoppedProcesses:
        stop = StopAll(self.sandbox._control)
        return StoppedProcesses(UnseenProcesses(self.init), stop)

    async def goes_on(self) -> bool:
        before = self.count
        for _ in range(30):
            await asyncio.sleep(0.1)
            if self.count > before + 10:
                return True
        return False


@asynccontextmanager
async def running_chain(tier: int, code: str = CHAIN) -> AsyncIterator[Session]:
    async with open_tier(tier) as opened, open_sandbox(opened) as sandbox:
        workspace = sandbox._resources._host_paths.workspace
        inner = sandbox.inner_paths.workspace / "count"
        process = await sandbox.spawn(program(sandbox, code, str(inner)))
        await wait_for_lines(process, 1)
        session = Session(sandbox, workspace / "count")
        if code is CHAIN:
            await until(lambda: "T" in states(session.find()))
        yield session


def states(processes: Collection[ProcStat]) -> list[str]:
    """Returns the letters of those that are still there."""
    texts = (read_proc_file(f"/proc/{one.pid}/stat") for one in processes)
    return [text.rpartition(b")")[2].split()[0].decode() for text in texts if text]


def stand_still(session: Session, stopped: StoppedProcesses, holder: object) -> StoodStill:
    steps = stopped.stand_still(holder, session.find, 2)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            still: StoodStill = end.value
            return still


@pytest.mark.parametrize(("tier", "has_scopes"), [(1, True), (3, True), (3, False)])
async def test_a_chain_stands_still_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tier: int, has_scopes: bool
) -> None:
    """It is listed then; one that had stopped itself stays stopped, and the init goes on."""
    if not has_scopes:  # as before Linux 6.12
        monkeypatch.setattr(landlock, "SCOPES_SINCE", 99)
    async with running_chain(tier) as session:
        stopped, holder, other = session.stopped(), object(), object()
        for _ in range(3):
            still = await asyncio.to_thread(stand_still, session, stopped, holder)
            assert still.is_all
            found = states(still.processes)
            assert set(found) == {"T"} and len(found) > 2  # one of the chain, or two
            await asyncio.to_thread(stand_still, session, stopped, other)
            await asyncio.to_thread(stopped.resume, other)
            assert not await goes_on_shortly(session)
            await asyncio.to_thread(stopped.resume, holder)
            assert not stopped.is_any
            assert await session.goes_on()
            assert states(session.find()).count("T") == 1
        assert stopped.can_stop_all


async def test_a_traced_process_goes_on() -> None:
    """One that stands still for its tracer is not stopped by what comes after that."""
    async with running_chain(1, TRACED) as session:
        stopped, holder = session.stopped(), object()
        for _ in range(5):
            with ptrace_stopped(session):
                still = await asyncio.to_thread(stand_still, session, stopped, holder)
                await asyncio.to_thread(stopped.resume, holder)
            assert still.is_all
            assert await session.goes_on()


@contextmanager
def ptrace_stopped(session: Session) -> Iterator[None]:
    """The tracer stands still first, and its child waits for it then."""
    tracer, child = (one.pid for one in session.find() if one.pid != session.init)
    os.kill(tracer, signal.SIGSTOP)
    assert wait_until(lambda: ") T " in Path(f"/proc/{tracer}/stat").read_text())
    os.kill(child, signal.SIGCHLD)
    assert wait_until(lambda: ") t " in Path(f"/proc/{child}/stat").read_text())
    yield
    os.kill(tracer, signal.SIGCONT)


async def goes_on_shortly(session: Session) -> bool:
    before = session.count
    await asyncio.sleep(0.1)
    return session.count != before


async def test_a_stop_that_comes_late_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked has given up by then: all go on."""
    monkeypatch.setattr(stop_all, "_ANSWER_SECONDS", 0)
    async with running_chain(1) as session:
        stopped, holder = session.stopped(), object()
        steps = stopped.stand_still(holder, session.find, 0)
        await asyncio.to_thread(lambda: list(steps))
        await asyncio.to_thread(stopped.resume, holder)
        await until(lambda: not stopped.is_any)
        assert await session.goes_on()
        assert states(session.find()).count("T") == 1


async def test_an_init_that_is_busy_for_long_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does nothing for which nobody waits any more."""
    monkeypatch.setattr(stop_all, "MAX_SECONDS", -1)
    async with running_chain(1) as session:
        stopped, holder = session.stopped(), object()
        still = await asyncio.to_thread(stand_still, session, stopped, holder)
        assert not still.is_all
        await asyncio.to_thread(stopped.resume, holder)
        assert await session.goes_on()


async def test_a_look_that_fails_leaves_nobody_stopped() -> None:
    """All go on, listed or not, when the list cannot be made in the middle of it."""
    async with running_chain(1) as session:
        stopped, holder, asked = session.stopped(), object(), threading.Event()
        stop = stopped._stop_at_once

        def stop_at_once(processes: Collection[ProcStat]) -> bool:
            asked.set()
            return stop(processes)

        def find() -> list[ProcStat]:
            if asked.is_set():
                raise OSError("no descriptor is left")
            return session.find()

        stopped._stop_at_once = stop_at_once  # type: ignore[method-assign]
        with pytest.raises(OSError, match="no descriptor"):
            await asyncio.to_thread(lambda: list(stopped.stand_still(holder, find, 2)))
        assert not await goes_on_shortly(session)
        await asyncio.to_thread(stopped.resume, holder)
        assert await session.goes_on()
        assert states(session.find()).count("T") == 1


async def test_a_session_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for."""
    async with running_chain(1) as session:
        stopped = session.stopped()
        await session.sandbox.aclose()
        still = await asyncio.to_thread(stand_still, session, stopped, object())
        assert not still.is_all


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_all_of_a_uid() -> None:
    """Without namespaces those of the session's uid are stopped, and no others."""
    pids = [start_as(uid) for uid in (12345, 12346)]
    try:
        assert signal_all._signal_as_user(12345, 12347, signal.SIGSTOP, 5)
        first, second = (f"/proc/{pid}/stat" for pid in pids)
        assert wait_until(lambda: ") T " in Path(first).read_text())
        assert ") T " not in Path(second).read_text()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def start_as(uid: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            signal.pause()
        finally:
            os._exit(0)
    assert wait_until(lambda: f"Uid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text())
    return pid

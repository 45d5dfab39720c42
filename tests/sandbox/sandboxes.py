"""What the tests of the sandbox share: open sandboxes, run programs in them, count what is left."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil

from era_kernels.models import ExitInfo, Limits, SessionPaths
from era_kernels.sandbox.server.process import Process
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from tests.waiting import until

ENTRIES = Path(__file__).parent / "entries"
ORDINARY_UID = 1000  # whose server has one uid for all sessions in tier 3
ENV = {"PATH": os.defpath, "LANG": "C.UTF-8"}

# A program that leaves everything behind that is hard to end, and tells the pids.
STUBBORN = """
import os, signal, sys, time
def deaf():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            deaf()
            os.write(1, b"%d\\n" % os.getpid())  # one write: others write, too
            time.sleep(600)
        os._exit(0)
    os.wait()
deaf()
for _ in range(3):
    daemon()
os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
"""


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="era-", dir="/tmp") as directory:
        yield Path(directory)


@asynccontextmanager
async def open_sandboxes(
    preload: Sequence[str] = (), paths: Sequence[Path] = (ENTRIES,)
) -> AsyncIterator[Sandboxes]:
    """Sandboxes with a zygote of their own, closed at the end."""
    with short_directory() as runtime:
        sandboxes = await Sandboxes.open(runtime, preload, paths)
        try:
            yield sandboxes
        finally:
            await sandboxes.aclose()


@asynccontextmanager
async def open_sandbox(preload: Sequence[str] = ()) -> AsyncIterator[Sandbox]:
    """One sandbox of its own zygote."""
    async with open_sandboxes(preload) as sandboxes:
        yield await new_sandbox(sandboxes)


async def new_sandbox(sandboxes: Sandboxes) -> Sandbox:
    """A sandbox for a session without directories of its own."""
    nowhere = Path("/nonexistent")
    return await sandboxes.open_sandbox(SessionPaths(nowhere, nowhere, nowhere), Limits())


def forked_program(
    code: str, *args: str, env: Mapping[str, str] = ENV, cwd: str = "/tmp"
) -> ProcessSpec:
    """A command that runs this text in a forked interpreter."""
    return ProcessSpec(entry="sandbox_entry:execute", args=(code, *args), env=env, cwd=cwd)


def shell_command(text: str, env: Mapping[str, str] = ENV, cwd: str = "/tmp") -> ProcessSpec:
    """A command that executes a shell."""
    return ProcessSpec(argv=("/bin/sh", "-c", text), env=env, cwd=cwd)


async def run_to_end(sandbox: Sandbox, command: ProcessSpec) -> tuple[ExitInfo, str, str]:
    """Run a command to its end: the ending, stdout, stderr."""
    process = await sandbox.spawn(command)
    ending = await asyncio.wait_for(process.ended, 30)
    return ending, process.stdout.tail().decode(), process.stderr.tail().decode()


async def wait_for_lines(process: Process, count: int) -> list[str]:
    """Wait until a process has written so many lines to its standard output."""
    await until(lambda: process.stdout.tail().count(b"\n") >= count)
    return process.stdout.tail().decode().splitlines()


async def spawn_stubborn(sandbox: Sandbox) -> list[int]:
    """Processes that ignore signals, lead sessions of their own and have no parent: their pids."""
    process = await sandbox.spawn(forked_program(STUBBORN))
    return [int(line) for line in await wait_for_lines(process, 4)]


def running_pids(pids: Sequence[int]) -> list[int]:
    """Those that run; the dead that nobody has reaped do not."""
    return [pid for pid in pids if _is_running(pid)]


def descendants(pid: int) -> list[int]:
    """All processes below this one, zombies included."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def count_descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

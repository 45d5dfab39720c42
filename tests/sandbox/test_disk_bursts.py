"""How far past its bound a session comes by a burst, and that it comes no further.

`python -m tests.sandbox.test_disk_bursts` prints the figures for docs/isolation.md.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import ExitInfo, Limits
from era_kernels.sandbox.server.sandbox import Sandbox
from tests.conftest import entered, loop
from tests.sandbox.sandboxes import forked_program
from tests.sandbox.tiers import isolated_sandboxes

MIB = 1024 * 1024
BOUND = 64 * MIB
# A burst stops at so many MiB by itself (some at more), should nobody stop it.
MAX_BURST = 1024
PACE = 0.005  # seconds from one MiB to the next, in tests: a machine may be busy
CHUNKS = f"""
import ctypes, mmap, os, socket, sys, time
data = b"x" * (1 << 20)
def told(size=1):
    if pace:
        os.write(1, b'.' * size)
        time.sleep(pace * size)
def fill(file, size={MAX_BURST}):
    for _ in range(size):
        os.write(file, data)
        told()
def unlinked(name, flags=0):
    file = os.open(name, os.O_RDWR | os.O_CREAT)
    os.unlink(name)
    return file
"""
BURSTS = {
    "a file that is written": "fill(os.open('f', os.O_WRONLY | os.O_CREAT))",
    "many files": """
for n in range(100000):
    file = os.open(str(n), os.O_WRONLY | os.O_CREAT); os.write(file, data[:65536]); os.close(file)
    if n % 16 == 15: told()
    if n > 16 * 1024: break
""",
    "an unlinked file": "fill(unlinked('f'))",
    "O_TMPFILE": "fill(os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600))",
    "an unlinked file that is mapped": f"""
file = unlinked('f'); os.ftruncate(file, {MAX_BURST} << 20)
mapped = mmap.mmap(file, {MAX_BURST} << 20); os.close(file)
for n in range({MAX_BURST}): mapped[n << 20:(n + 1) << 20] = data; told()
""",
    "a file in a socket": """
one, other = socket.socketpair()
file = unlinked('f')
for _ in range(30):
    socket.send_fds(one, [b'x'], [file]); os.close(file)
    _, (file,), _, _ = socket.recv_fds(other, 1, 1)
    fill(file, 1)
for n in range(300):
    files = []
    file = unlinked(f'f{n}'); fill(file, 4)
    socket.send_fds(one, [b'x'], [file]); os.close(file)
""",
    "eight processes": """
pace *= 8
for n in range(8):
    if os.fork() == 0:
        fill(os.open(str(n), os.O_WRONLY | os.O_CREAT), 256); os._exit(0)
time.sleep(30)
""",
    "processes that nobody waits for": """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for n in range(1024):
    if os.fork() == 0:
        fill(unlinked(f'f{n}') if n % 2 else os.open(str(n), os.O_WRONLY | os.O_CREAT), 1)
        os._exit(0)
    time.sleep(0.0005)
""",
    "a descriptor of a thread": """
import threading
libc = ctypes.CDLL(None)
def body():
    fill(file)
file = unlinked('f')
threading.Thread(target=body).start()
""",
    "names that hide": """
os.mkdir(b'a\\r\\n (deleted) \\xff'); os.chdir(b'a\\r\\n (deleted) \\xff')
for n in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)
fill(os.open(b'\\n\\xfe', os.O_WRONLY | os.O_CREAT))
""",
    "reserving": """
for n in range(64):
    file = os.open(str(n), os.O_RDWR | os.O_CREAT); os.posix_fallocate(file, 0, 32 << 20)
    told(32)
""",
}
# What is no burst, and goes on.
HARMLESS = {
    "a sparse file": "os.truncate(os.open('f', os.O_WRONLY | os.O_CREAT), 60 << 20)",
    "hard links": """
file = os.open('f', os.O_WRONLY | os.O_CREAT); fill(file, 10)
for n in range(100): os.link('f', str(n))
""",
    "overwriting": """
file = os.open('f', os.O_WRONLY | os.O_CREAT)
for _ in range(20):
    os.lseek(file, 0, 0); fill(file, 16)
""",
    "a pipe": """
read, write = os.pipe()
for _ in range(4000): os.write(write, data[:65536]); os.read(read, 65536)
""",
    "files that go": """
for _ in range(20):
    fill(unlinked('f'), 16) if False else None
    file = unlinked('f'); fill(file, 16); os.close(file)
""",
    "memory": "file = os.memfd_create('m'); fill(file, 100)",
}


def used() -> int:
    status = os.statvfs("/tmp")
    return (status.f_blocks - status.f_bfree) * status.f_frsize


async def run_burst(sandbox: Sandbox, code: str, pace: float = 0) -> tuple[ExitInfo, int, str]:
    """How it ended, and by how many bytes it came past its bound at the most.

    With a pace (seconds for each MiB) it prints a dot for each MiB that it has written.
    """
    before = peak = used()
    home = str(sandbox.inner_paths.workspace)
    wait = "\nprint('done', flush=True); time.sleep(3); print('alive', flush=True)"
    process = await sandbox.spawn(forked_program(f"pace = {pace}\n{CHUNKS}{code}{wait}", cwd=home))
    limit = time.monotonic() + 30
    while not process.ended.done() and time.monotonic() < limit:
        peak = max(peak, used())
        await asyncio.sleep(0.002)
    ending = await asyncio.wait_for(process.ended, 10)
    out = process.stdout.tail().decode() + process.stderr.tail().decode()
    return ending, peak - before - BOUND, out


@asynccontextmanager
async def bounded_sandboxes(tier: int = 1) -> AsyncIterator[Callable[[], Awaitable[Sandbox]]]:
    """Opens sandboxes whose workspaces are bounded."""
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        numbers = itertools.count()

        async def open_one() -> Sandbox:
            limits = Limits(workspace=BOUND, file_size=BOUND * 64, open_files=1024)
            sandbox = await sandboxes.open_sandbox(make_paths(str(next(numbers))), limits)
            await asyncio.sleep(0.3)
            return sandbox

        yield open_one


io_loop = pytest.fixture(loop, scope="module")


@pytest.fixture(scope="module")
def open_bounded(io_loop: IOLoop) -> Iterator[Callable[[], Awaitable[Sandbox]]]:
    with entered(io_loop, bounded_sandboxes()) as open_one:
        yield open_one


@pytest.mark.parametrize("burst", BURSTS)
async def test_burst(open_bounded: Callable[[], Awaitable[Sandbox]], burst: str) -> None:
    """It ends the session before a third of what the program would write is written."""
    ending, _, out = await run_burst(await open_bounded(), BURSTS[burst], PACE)
    assert ending.reason == "workspace larger than 64 MB", out
    written = out.count(".")
    assert BOUND // MIB // 2 <= written < MAX_BURST // 3, out


async def test_harmless(open_bounded: Callable[[], Awaitable[Sandbox]]) -> None:
    """Each stays within its bound, and goes on."""

    async def run_one(program: str) -> tuple[str | None, str]:
        ending, _, out = await run_burst(await open_bounded(), program)
        return ending.reason, out

    found = await asyncio.gather(*map(run_one, HARMLESS.values()))
    assert dict(zip(HARMLESS, found, strict=True)) == dict.fromkeys(
        HARMLESS, (None, "done\nalive\n")
    )


# Of each file only a call has a descriptor that waits until there is room in a socket.
HELD_BY_CALLS = """
import fcntl, threading
def wait(end, file):
    try: socket.send_fds(end, [b'x'], [file])
    except OSError: pass
ends, threads = [], []
for n in range(20):
    first = unlinked('f'); fill(first, 8)
    file = fcntl.fcntl(first, fcntl.F_DUPFD, 100 + n); os.close(first)  # a number used once
    one, other = socket.socketpair(); ends.append(other); one.setblocking(False)
    try:
        while True: one.send(data[:4096])
    except BlockingIOError: one.setblocking(True)
    threads.append(threading.Thread(target=wait, args=(one, file), daemon=True))
    threads[-1].start()
    time.sleep(0.1); os.close(file); time.sleep(0.5)
print(8 * sum(thread.is_alive() for thread in threads), flush=True); os._exit(0)
"""


async def test_files_that_calls_hold(open_bounded: Callable[[], Awaitable[Sandbox]]) -> None:
    """Nobody sees them, but a call that is made to stand still lets go of them."""
    _, _, out = await run_burst(await open_bounded(), HELD_BY_CALLS)
    assert int(out) <= BOUND // MIB, out


async def burst_in_large_tree(count: int, bound: int) -> tuple[str | None, int]:
    """A burst in a workspace of many files: the cause of the end, and how far past the bound."""
    async with isolated_sandboxes() as (sandboxes, make_paths):
        paths = make_paths("a")
        for number in range(count):
            if number % 1000 == 0:
                folder = paths.workspace / str(number)
                folder.mkdir()
            (folder / str(number)).touch()
        limits = Limits(workspace=bound, file_size=8 * bound)
        sandbox = await sandboxes.open_sandbox(paths, limits)
        await asyncio.sleep(3)
        present = count * 4096
        ending, past, out = await run_burst(sandbox, BURSTS["a file that is written"])
        return ending.reason or out, past + BOUND - (bound - present)


async def test_burst_in_large_tree() -> None:
    """It is ended soon, although the tree takes long to walk."""
    reason, _ = await burst_in_large_tree(5_000, BOUND)
    assert reason == "workspace larger than 64 MB"


async def idle_cost(count: int, seconds: float) -> float:
    """The share of a processor that watching so many idle sessions takes."""
    async with isolated_sandboxes() as (sandboxes, make_paths):
        for number in range(count):
            limits = Limits(workspace=BOUND, memory=256 * MIB, processes=40)
            sandbox = await sandboxes.open_sandbox(make_paths(str(number)), limits)
            await sandbox.spawn(forked_program("import time; time.sleep(600)"))
        await asyncio.sleep(5)
        began = time.process_time()
        await asyncio.sleep(seconds)
        return (time.process_time() - began) / seconds


async def main() -> None:
    print(f"30 idle sessions: {100 * await idle_cost(30, 20):.1f} % of a processor")
    reason, past = await burst_in_large_tree(200_000, 1000 * MIB)
    print(f"200 000 files: {past // MIB} MiB past 1000: {reason}")
    for name, code in {**BURSTS, **HARMLESS}.items():
        async with bounded_sandboxes() as open_one:
            sandbox = await open_one()
            began = time.monotonic()
            ending, past, out = await run_burst(sandbox, code)
            print(
                f"{name:40} {past // MIB:5} MiB  {time.monotonic() - began:.2f} s  "
                f"{ending.reason or ending.description} {out.strip()[-80:]!r}"
            )


if __name__ == "__main__":
    asyncio.run(main())

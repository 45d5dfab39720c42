"""All sessions together: the largest ends before there is no more, and says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from era_kernels.models import Limits
from era_kernels.sandbox.server import all_sessions_memory, cgroups
from era_kernels.sandbox.server.process import Process
from era_kernels.sandbox.server.sandbox import Sandbox
from tests.sandbox.sandboxes import forked_program, run_to_end, shell_command, wait_for_lines
from tests.sandbox.tiers import MIB, isolated_sandboxes
from tests.waiting import until

SERVER_MEMORY = 1024 * MIB
LIMITS = Limits(memory=800 * MIB, tmp=800 * MIB, shm=800 * MIB)
TOGETHER = (
    "out of memory: all sessions together use 95 % of 1 GiB (server_memory), "
    "and this one used the most"
)
LAST_RESORT = (
    "out of memory: all sessions together used 1 GiB (server_memory), "
    "and this one had the largest process"
)
# Kind of memory → a program that takes MB of it.
KINDS = {
    "of one process": "data = b'x' * (MB << 20)",
    # 500 MB/s: a machine that is busy with other tests looks late.
    "that grows": """
data = []
for _ in range(MB // 5):
    data.append(b'x' * (5 << 20))
    time.sleep(0.01)
""",
    "of children": """
ends = [os.pipe() for _ in range(4)]
for read, write in ends:
    if os.fork() == 0:
        data = b'x' * (MB // 4 << 20)
        os.write(write, b'.')
        time.sleep(600)
for read, write in ends: os.read(read, 1)
""",
    "shared by children": """
import mmap
data = mmap.mmap(-1, MB << 20)
for at in range(0, MB << 20, 4096): data[at] = 1
for _ in range(4):
    if os.fork() == 0:
        for at in range(0, MB << 20, 4096): data[at] = 2
        time.sleep(600)
""",
    "of a memfd": """
descriptor = os.memfd_create('data')
for _ in range(MB): os.write(descriptor, bytes(1 << 20))
""",
    "of files in /dev/shm": """
with open('/dev/shm/data', 'wb', buffering=0) as file:
    for _ in range(MB): file.write(bytes(1 << 20))
""",
    "of files in /tmp": """
with open('/tmp/data', 'wb', buffering=0) as file:
    for _ in range(MB): file.write(bytes(1 << 20))
""",
}


@pytest.fixture(params=["control groups", "no control groups"])
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which control groups can be made, and one on which none can."""
    if request.param == "no control groups":
        monkeypatch.setattr(cgroups, "find_controllers", list)


@asynccontextmanager
async def small_server(
    count: int, limits: Limits = LIMITS, tier: int = 1, size: int = SERVER_MEMORY
) -> AsyncIterator[list[Sandbox]]:
    """So many sandboxes of a server whose sessions may use little together."""
    async with isolated_sandboxes(tier, size) as (sandboxes, make_paths):
        yield [await sandboxes.open_sandbox(make_paths(str(n)), limits) for n in range(count)]


async def hold(sandbox: Sandbox, megabytes: int, kind: str = "of one process") -> Process:
    """Starts a program that takes so much and sleeps, and waits until it has the memory."""
    code = KINDS[kind].replace("MB", str(megabytes))
    text = f"import os, time\n{code}\nprint('held', flush=True)\ntime.sleep(600)"
    process = await sandbox.spawn(forked_program(text))
    await wait_for_lines(process, 1)
    return process


async def cause_of(sandbox: Sandbox) -> str | None:
    """Waits for the end of a sandbox, and returns its cause."""
    ending = await asyncio.wait_for(sandbox.ended, 20)
    assert ending.exit_code == 137
    return ending.reason


async def assert_usable(*sandboxes: Sandbox) -> None:
    for sandbox in sandboxes:
        ending, out, _ = await run_to_end(sandbox, shell_command("echo alive"))
        assert (ending.code, out) == (0, "alive\n")


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("kind", list(KINDS))
async def test_the_largest_ends(kind: str) -> None:
    """It ends whatever kind of memory it has, however idle it is; the others go on."""
    async with small_server(3) as (first, largest, last):
        kept = [await hold(first, 120)]
        process = await hold(largest, 500, kind)
        kept.append(await hold(last, 60))
        ballast = asyncio.ensure_future(hold(last, 300, "that grows"))
        assert await cause_of(largest) == TOGETHER
        assert (await process.ended).reason == TOGETHER
        kept.append(await asyncio.wait_for(ballast, 20))
        await asyncio.sleep(2 * all_sessions_memory.MAX_PAUSE)  # no other ends for the same excess
        assert all(one.is_running for one in kept)
        await assert_usable(first, last)


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("tier", [2, 3])
async def test_weaker_isolation(tier: int) -> None:
    """The same holds where there are no namespaces, or the container's /proc."""
    async with small_server(3, Limits(memory=800 * MIB), tier) as (first, largest, last):
        await hold(largest, 500)
        await hold(first, 200)
        ballast = asyncio.ensure_future(hold(last, 300, "that grows"))
        assert await cause_of(largest) == TOGETHER
        await asyncio.wait_for(ballast, 20)
        await assert_usable(first, last)


@pytest.mark.usefixtures("groups")
async def test_one_after_the_other() -> None:
    """Where one end is not enough the next largest follows, and no more than are needed."""
    async with small_server(4) as sandboxes:
        held = [asyncio.ensure_future(hold(one, 600, "that grows")) for one in sandboxes]
        await until(lambda: sum(one.is_running for one in sandboxes) <= 1)
        await asyncio.sleep(4 * all_sessions_memory.MAX_PAUSE)
        ended = [one for one in sandboxes if not one.is_running]
        assert len(ended) == 3  # each takes 600 of 972 MiB: there is room for one
        assert {await cause_of(one) for one in ended} == {TOGETHER}
        await assert_usable(*(one for one in sandboxes if one.is_running))
        for waiting in held:
            waiting.cancel()


@pytest.mark.usefixtures("groups")
async def test_memory_that_linux_gives_back() -> None:
    """Files that were read and written fill memory without being used: nobody ends for them."""
    async with small_server(2, Limits(memory=800 * MIB)) as (one, other):
        await hold(other, 200)
        text = "for n in 1 2 3 4 5 6; do head -c 200000000 /dev/zero > $n; cat $n > /dev/null; done"
        ending, _, err = await run_to_end(one, shell_command(text, cwd="/home/user"))
        assert (ending.code, err) == (0, "")
        await asyncio.sleep(2 * all_sessions_memory.MAX_PAUSE)
        await assert_usable(one, other)


@pytest.mark.parametrize("kind", ["of one process", "of children"])
async def test_last_resort(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server does not look, Linux ends a process of a session, and that is told.

    A session that then reaches its own limit says its own.
    """
    monkeypatch.setattr(all_sessions_memory, "END_PERCENT", 1000)
    async with small_server(3) as (first, largest, last):
        await hold(first, 100)
        await hold(largest, 700, kind)
        ballast = asyncio.ensure_future(hold(last, 600, "that grows"))
        endings = [asyncio.ensure_future(one.ended) for one in (first, largest, last)]
        done, _ = await asyncio.wait(endings, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result().reason for one in done] == [LAST_RESORT]
        running = [one for one in (first, largest, last) if one.is_running]
        assert first in running
        await asyncio.sleep(1)
        await assert_usable(first)
        ballast.cancel()


async def test_own_limit_after_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other sessions ran into is not told by one that reaches its own limit."""
    monkeypatch.setattr(all_sessions_memory, "END_PERCENT", 1000)
    async with small_server(3) as (first, second, third):
        await hold(first, 600)
        await second.spawn(forked_program("data = b'x' * (700 << 20)"))
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(one.ended) for one in (first, second)],
            timeout=20,
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [one.result().reason for one in done] == [LAST_RESORT]
        await asyncio.gather(first.aclose(), second.aclose())
        await third.spawn(forked_program("data = b'x' * (900 << 20)"))
        assert await cause_of(third) == "out of memory at 800 MB"

"""Cells: spares are used, renewed, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.server.init_pool import InitPool
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.sandbox.sandboxes import (
    ENTRIES,
    descendants,
    run_to_end,
    shell_command,
    short_directory,
)
from tests.waiting import until, wait_until


@asynccontextmanager
async def pool_with_spare(tier: int = 3) -> AsyncIterator[tuple[Sandboxes, InitPool, SessionPaths]]:
    """Sandboxes that keep a spare, with an isolation that every user can have."""
    with short_directory() as base:
        paths = SessionPaths(*(base / part for part in ("workspace", "packages", "cache")))
        for part in (paths.workspace, paths.packages, paths.cache):
            part.mkdir()
        wish = IsolationPolicy(strongest_tier=tier, weakest_tier=4, readable_paths=(ENTRIES,))
        sandboxes = await Sandboxes.open(base / "r", (), (ENTRIES,), wish, spare_count=1)
        try:
            yield sandboxes, sandboxes._init_pool, paths
        finally:
            await sandboxes.aclose()


async def wait_for_spare(pool: InitPool) -> int:
    """Wait until there is a spare; its number."""
    await until(lambda: pool._spares)
    return pool._spares[0].number


async def test_a_spare_is_used_and_renewed() -> None:
    """The next sandbox gets it, bounds and all, and there is another soon."""
    async with pool_with_spare(1) as (sandboxes, pool, paths):
        first = await wait_for_spare(pool)
        sandbox = await sandboxes.open_sandbox(paths, Limits(processes=1))
        assert sandbox._prepared_init.number == first
        ending, _, err = await run_to_end(sandbox, shell_command("true & wait"))
        assert ending.code != 0, err
        assert await wait_for_spare(pool) != first


async def test_a_dead_spare_is_no_loss() -> None:
    """One that was killed is passed over."""
    async with pool_with_spare() as (sandboxes, pool, paths):
        number = await wait_for_spare(pool)
        async with asyncio.timeout(10):
            while not (pids := descendants(sandboxes.zygote.pid)):
                await asyncio.sleep(0.005)
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: not pool._spares[0].is_usable)
        sandbox = await sandboxes.open_sandbox(paths, Limits())
        assert sandbox._prepared_init.number > number


async def test_a_spare_ends_with_its_zygote() -> None:
    """The spare of a dead zygote is not used, since no process could kill it."""
    async with pool_with_spare() as (sandboxes, pool, paths):
        await wait_for_spare(pool)
        old = sandboxes.zygote.pid
        os.kill(old, signal.SIGKILL)
        await until(lambda: not sandboxes.zygote.is_alive)
        sandbox = await sandboxes.open_sandbox(paths, Limits())
        assert sandbox.pid in descendants(sandboxes.zygote.pid)
        assert sandboxes.zygote.pid != old


async def test_nothing_is_left() -> None:
    """Spares end with the server, and so do their groups."""
    async with pool_with_spare(1) as (sandboxes, pool, _):
        await wait_for_spare(pool)
        async with asyncio.timeout(10):
            while not (family := descendants(sandboxes.zygote.pid)):
                await asyncio.sleep(0.005)
        directories = sandboxes._init_pool.cgroups.directories
    assert not any(Path(directory).exists() for directory in directories)
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family))  # noqa: PTH110


async def test_a_crowd() -> None:
    """Many at once get inits of their own, and one spare is left over, not twenty."""
    async with pool_with_spare(1) as (sandboxes, pool, paths):
        opened = await asyncio.gather(*(sandboxes.open_sandbox(paths, Limits()) for _ in range(20)))
        assert len({sandbox._prepared_init.number for sandbox in opened}) == 20
        await wait_for_spare(pool)
        await asyncio.sleep(0.1)
        assert len(pool._spares) == 1

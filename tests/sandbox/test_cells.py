"""Cells: spares are used, renewed, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from era_kernels.models import Limits, Place
from era_kernels.sandbox.cells import Cells
from era_kernels.sandbox.sandbox import Sandboxes, Wish
from tests.sandbox.house import ENTRIES, descendants, outcome, shell, short_directory, wait_until
from tests.sandbox.test_groups import there
from tests.sandbox.test_walls import run_async


@asynccontextmanager
async def spared(tier: int = 3) -> AsyncIterator[tuple[Sandboxes, Cells, Place]]:
    """Sandboxes that keep a spare, in walls that every user can have."""
    with short_directory() as base:
        place = Place(*(base / part for part in ("workspace", "packages", "cache")))
        for part in (place.workspace, place.packages, place.cache):
            part.mkdir()
        wish = Wish(strongest=tier, weakest=4, readable=(ENTRIES,))
        sandboxes = await Sandboxes.open(base / "r", (), (ENTRIES,), wish, spares=1)
        try:
            yield sandboxes, sandboxes._cells, place
        finally:
            await sandboxes.aclose()


async def spare(cells: Cells) -> int:
    """Wait until there is a spare; its number."""
    async with asyncio.timeout(10):
        while not cells._spares:
            await asyncio.sleep(0.005)
    return cells._spares[0].number


@run_async
async def test_a_spare_is_used_and_renewed() -> None:
    """The next sandbox gets it, bounds and all, and there is another soon."""
    async with spared(1) as (sandboxes, cells, place):
        first = await spare(cells)
        sandbox = await sandboxes.open_sandbox(place, Limits(processes=2))
        assert sandbox._cell.number == first
        ending, _, err = await outcome(sandbox, shell("true & wait"))
        assert ending.code != 0, err
        assert await spare(cells) != first


@run_async
async def test_a_dead_spare_is_no_loss() -> None:
    """One that was killed is passed over."""
    async with spared() as (sandboxes, cells, place):
        number = await spare(cells)
        async with asyncio.timeout(10):
            while not (pids := descendants(sandboxes.zygote.pid)):
                await asyncio.sleep(0.005)
        os.kill(pids[0], signal.SIGKILL)
        async with asyncio.timeout(10):
            while cells._spares[0].usable:
                await asyncio.sleep(0.005)
        sandbox = await sandboxes.open_sandbox(place, Limits())
        assert sandbox._cell.number > number


@run_async
async def test_a_spare_ends_with_its_zygote() -> None:
    """The spare of a dead zygote is not used: who would end it?"""
    async with spared() as (sandboxes, cells, place):
        await spare(cells)
        old = sandboxes.zygote.pid
        os.kill(old, signal.SIGKILL)
        async with asyncio.timeout(10):
            while sandboxes.zygote.alive:
                await asyncio.sleep(0.005)
        sandbox = await sandboxes.open_sandbox(place, Limits())
        assert sandbox.pid in descendants(sandboxes.zygote.pid)
        assert sandboxes.zygote.pid != old


@run_async
async def test_nothing_is_left() -> None:
    """Spares end with the server, and so do their groups."""
    before = there()
    async with spared(1) as (sandboxes, cells, _):
        await spare(cells)
        async with asyncio.timeout(10):
            while not (family := descendants(sandboxes.zygote.pid)):
                await asyncio.sleep(0.005)
    assert there() == before
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in family))


@run_async
async def test_a_crowd() -> None:
    """Many at once get cells of their own, and one spare is left over, not twenty."""
    async with spared(1) as (sandboxes, cells, place):
        opened = await asyncio.gather(*(sandboxes.open_sandbox(place, Limits()) for _ in range(20)))
        assert len({sandbox._cell.number for sandbox in opened}) == 20
        await spare(cells)
        await asyncio.sleep(0.1)
        assert len(cells._spares) == 1

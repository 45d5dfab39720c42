"""Long work runs in steps, on the loop and in a thread, and lets other work run in between."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from era_kernels.concurrency import cooperative
from era_kernels.concurrency.cooperative import run_cooperatively, run_in_slices
from era_kernels.json_incremental import iterparse

OBJECTS = [{"a": 1}] * 100_000


async def test_both_ways_to_run_steps() -> None:
    """On the loop other tasks run in between; in a thread the result is the same."""
    text = json.dumps(OBJECTS).encode()
    iterations = 0

    async def body() -> Any:
        nonlocal iterations
        task = asyncio.create_task(run_cooperatively(iterparse(text, 1_000_000, 100)))
        while not task.done():
            iterations += 1
            await asyncio.sleep(0)
        return task.result()

    assert await body() == run_in_slices(iterparse(text, 1_000_000, 100)) == OBJECTS
    assert iterations > 100


async def test_yields_are_longer_beside_busy_tasks() -> None:
    """As long as other tasks are busy during each yield, the next yield is a long one."""

    def work() -> cooperative.Stepwise[None]:
        for _ in range(21):
            time.sleep(cooperative.SLICE_SECONDS)
            yield

    async def be_busy() -> None:
        while True:
            end = time.thread_time() + 2 * cooperative.BUSY_CPU_SECONDS
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0)

    busy = asyncio.create_task(be_busy())
    started_at = time.monotonic()
    await run_cooperatively(work())
    taken = time.monotonic() - started_at
    busy.cancel()

    assert taken >= 20 * cooperative.LONG_YIELD_SECONDS


async def test_errors_come_out_of_both() -> None:
    """Both functions raise what a step raises."""
    with pytest.raises(ValueError, match="Expecting value"):
        await run_cooperatively(iterparse(b"x", 1, 1))
    with pytest.raises(ValueError, match="Expecting value"):
        run_in_slices(iterparse(b"x", 1, 1))

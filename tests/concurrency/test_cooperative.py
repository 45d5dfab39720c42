"""Long work in steps, on the loop and in a thread; others have their turn in between."""

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


def test_both_ways_to_take_steps() -> None:
    """On the loop others have their turn in between; in a thread it comes to the same."""
    text = json.dumps(OBJECTS).encode()
    turns = 0

    async def body() -> Any:
        nonlocal turns
        task = asyncio.create_task(run_cooperatively(iterparse(text, 1_000_000, 100)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return task.result()

    assert asyncio.run(body()) == run_in_slices(iterparse(text, 1_000_000, 100)) == OBJECTS
    assert turns > 100


def test_the_loop_is_left_to_others_who_need_it() -> None:
    """As long as they do something in each rest, the next is a long one."""

    def work() -> cooperative.Stepwise[None]:
        for _ in range(21):
            time.sleep(cooperative.SLICE_SECONDS)
            yield

    async def others() -> None:
        while True:
            end = time.thread_time() + 2 * cooperative.BUSY_CPU_SECONDS
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0)

    async def body() -> float:
        busy = asyncio.create_task(others())
        began = time.monotonic()
        await run_cooperatively(work())
        taken = time.monotonic() - began
        busy.cancel()
        return taken

    assert asyncio.run(body()) >= 20 * cooperative.LONG_YIELD_SECONDS


def test_errors_come_out_of_both() -> None:
    """What a step raises, its taker raises."""
    with pytest.raises(ValueError, match="no value"):
        asyncio.run(run_cooperatively(iterparse(b"x", 1, 1)))
    with pytest.raises(ValueError, match="no value"):
        run_in_slices(iterparse(b"x", 1, 1))

"""Long work in steps, on the loop and in a thread; others have their turn in between."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from era_kernels import steps
from era_kernels.long_json import reading
from era_kernels.steps import in_thread, leisurely

OBJECTS = [{"a": 1}] * 100_000


def test_both_ways_to_take_steps() -> None:
    """On the loop others have their turn in between; in a thread it comes to the same."""
    text = json.dumps(OBJECTS).encode()
    turns = 0

    async def body() -> Any:
        nonlocal turns
        task = asyncio.create_task(leisurely(reading(text, 1_000_000, 100)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return task.result()

    assert asyncio.run(body()) == in_thread(reading(text, 1_000_000, 100)) == OBJECTS
    assert turns > 100


def test_the_loop_is_left_to_others_who_need_it() -> None:
    """As long as they do something in each rest, the next is a long one."""

    def work() -> steps.Steps[None]:
        for _ in range(21):
            time.sleep(steps.WORK)
            yield

    async def others() -> None:
        while True:
            end = time.thread_time() + 2 * steps.USE
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0)

    async def body() -> float:
        busy = asyncio.create_task(others())
        began = time.monotonic()
        await leisurely(work())
        taken = time.monotonic() - began
        busy.cancel()
        return taken

    assert asyncio.run(body()) >= 20 * steps.LONG_REST


def test_errors_come_out_of_both() -> None:
    """What a step raises, its taker raises."""
    with pytest.raises(ValueError, match="no value"):
        asyncio.run(leisurely(reading(b"x", 1, 1)))
    with pytest.raises(ValueError, match="no value"):
        in_thread(reading(b"x", 1, 1))

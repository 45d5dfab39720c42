"""Callers share one task that is under way."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.concurrency.single_flight import SingleFlight


async def test_callers_share_one_task() -> None:
    """Callers that come while the task runs get its result; a cancelled one spoils nothing."""
    gate = asyncio.Event()
    starts = 0

    async def job() -> int:
        nonlocal starts
        starts += 1
        await gate.wait()
        return starts

    flight = SingleFlight(job)
    callers = [asyncio.create_task(flight.run()) for _ in range(3)]
    await asyncio.sleep(0)
    callers.pop().cancel()
    gate.set()
    assert await asyncio.gather(*callers) == [1, 1]
    assert await flight.run() == 2


async def test_callers_share_a_failure() -> None:
    """Each caller sees the failure, and the next caller starts a new task."""
    starts = 0

    async def job() -> None:
        nonlocal starts
        starts += 1
        raise ValueError

    flight = SingleFlight(job)
    results = await asyncio.gather(flight.run(), flight.run(), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    with pytest.raises(ValueError):
        await flight.run()
    assert starts == 2

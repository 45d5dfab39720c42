"""Callers share one task that is under way."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.concurrency.single_flight import SingleFlight, SingleFlights


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


async def test_it_ends_with_its_callers() -> None:
    """It goes on while one waits; the last one that leaves ends it, and the next begins anew."""
    ended, gate = asyncio.Event(), asyncio.Event()

    async def job() -> str:
        try:
            await gate.wait()
            return "done"
        finally:
            ended.set()
            await asyncio.sleep(0.01)

    flight = SingleFlight(job, ends_with_callers=True)
    first, second = (asyncio.create_task(flight.run()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0.01)
    assert not ended.is_set()
    second.cancel()
    await ended.wait()
    late = asyncio.create_task(flight.run())  # the one before is still ending
    await asyncio.sleep(0)
    gate.set()
    assert await late == "done"
    assert flight.is_idle


async def test_each_key_has_one_task() -> None:
    """Callers of one key share a task that began after they came; none is kept at the end."""
    started: list[str] = []

    async def job(key: str) -> int:
        started.append(key)
        await asyncio.sleep(0.01)
        return started.count(key)

    flights = SingleFlights(job)
    callers = [asyncio.create_task(flights.run_fresh(key)) for key in "aaab"]
    await asyncio.sleep(0)
    assert len(flights) == 2
    flights.forget("a")
    callers.append(asyncio.create_task(flights.run_fresh("a")))
    await asyncio.gather(*callers)
    assert sorted(started) == ["a", "a", "a", "b"]
    assert len(flights) == 0

"""Calls of one round of the loop are made together, and each caller gets what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from era_kernels.concurrency.batched_calls import MAX_BATCH, BatchedCalls


class Doubler:
    """Doubles numbers; is told in `batches` which were asked for together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        await asyncio.sleep(0)
        if 0 in numbers:
            raise LookupError("all of them")
        return [ValueError(f"{n}") if n < 0 else 2 * n for n in numbers]


async def test_together() -> None:
    """What is called in one round is one batch; each gets its own result."""
    doubler = Doubler()
    calls = BatchedCalls(doubler)
    assert await asyncio.gather(*(calls.call(n) for n in (1, 2, 3))) == [2, 4, 6]
    assert await calls.call(4) == 8
    assert doubler.batches == [[1, 2, 3], [4]]


async def test_many() -> None:
    """No batch has more than so many calls."""
    doubler = Doubler()
    calls, numbers = BatchedCalls(doubler), range(1, 2 * MAX_BATCH + 2)
    assert await asyncio.gather(*map(calls.call, numbers)) == [2 * n for n in numbers]
    assert [len(batch) for batch in doubler.batches] == [MAX_BATCH, MAX_BATCH, 1]


async def test_own_error() -> None:
    """An error among the results is that of one caller."""
    calls = BatchedCalls(Doubler())
    results = await asyncio.gather(*map(calls.call, (1, -5, 3)), return_exceptions=True)
    assert results[::2] == [2, 6]
    assert isinstance(results[1], ValueError)
    assert str(results[1]) == "-5"


async def test_common_error() -> None:
    """What the batch raises, each caller gets, in an exception of its own; the next one works."""
    calls = BatchedCalls(Doubler())
    results = await asyncio.gather(*map(calls.call, (1, 0, 3)), return_exceptions=True)
    assert [str(error) for error in results] == ["all of them"] * 3
    assert all(isinstance(error, LookupError) for error in results)
    assert len({id(error) for error in results}) == 3
    assert await calls.call(1) == 2


async def test_cancelled_caller() -> None:
    """The call is made all the same, and the others get their results."""
    doubler = Doubler()
    calls = BatchedCalls(doubler)
    tasks = [asyncio.create_task(calls.call(n)) for n in (1, 2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await tasks[1] == 4
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert doubler.batches == [[1, 2]]

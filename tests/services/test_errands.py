"""Errands go on when who asked for them has left."""

from __future__ import annotations

import asyncio
import logging

import pytest

from era_kernels.errors import SessionNotFound
from era_kernels.services.errands import Errands


class Errand:
    """Waits to be let through, and notes that it came to its end."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.done = False
        self.problem = problem

    async def go(self) -> str:
        await self.gate.wait()
        self.done = True
        if self.problem is not None:
            raise self.problem
        return "well"


async def left(errands: Errands, errand: Errand) -> None:
    """Ask for the errand, and leave while it is under way."""
    caller = asyncio.create_task(errands.run(errand.go()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.gen_test
async def test_caller_gets_the_result() -> None:
    """Who stays has what the errand returns, or what it raises."""
    errands, errand = Errands(), Errand()
    errand.gate.set()
    assert await errands.run(errand.go()) == "well"
    errand.problem = SessionNotFound("It is gone.")
    with pytest.raises(SessionNotFound):
        await errands.run(errand.go())


@pytest.mark.gen_test
async def test_errand_outlives_its_caller() -> None:
    """A cancelled caller leaves at once; the errand is done all the same."""
    errands, errand = Errands(), Errand()
    await left(errands, errand)
    errand.gate.set()
    await errands.aclose()
    assert errand.done


@pytest.mark.gen_test
async def test_close_waits_for_errands_of_errands() -> None:
    """Closing waits also for what an errand starts."""
    errands, second = Errands(), Errand()
    second.gate.set()

    async def first() -> None:
        await asyncio.sleep(0)
        errands.start(second.go())

    errands.start(first())
    await errands.aclose()
    assert second.done


@pytest.mark.gen_test
async def test_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that nobody waits for is logged, but domain errors, which are told, are not."""
    errands = Errands()
    for problem in (SessionNotFound("It is gone."), RuntimeError("a bug")):
        errand = Errand(problem)
        await left(errands, errand)
        errand.gate.set()
        await errands.aclose()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

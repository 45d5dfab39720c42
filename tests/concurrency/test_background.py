"""Errands go on when who asked for them has left."""

from __future__ import annotations

import asyncio
import logging

import pytest

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import SessionNotFound


class GatedJob:
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


async def cancel_caller(background: BackgroundTasks, job: GatedJob) -> None:
    """Ask for the job, and leave while it is under way."""
    caller = asyncio.create_task(background.run_shielded(job.go()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.gen_test
async def test_caller_gets_the_result() -> None:
    """Who stays has what the job returns, or what it raises."""
    background, job = BackgroundTasks(), GatedJob()
    job.gate.set()
    assert await background.run_shielded(job.go()) == "well"
    job.problem = SessionNotFound("It is gone.")
    with pytest.raises(SessionNotFound):
        await background.run_shielded(job.go())


@pytest.mark.gen_test
async def test_job_outlives_its_caller() -> None:
    """A cancelled caller leaves at once; the job is done all the same."""
    background, job = BackgroundTasks(), GatedJob()
    await cancel_caller(background, job)
    job.gate.set()
    await background.aclose()
    assert job.done


@pytest.mark.gen_test
async def test_close_waits_for_jobs_of_jobs() -> None:
    """Closing waits also for what an job starts."""
    background, second = BackgroundTasks(), GatedJob()
    second.gate.set()

    async def first() -> None:
        await asyncio.sleep(0)
        background.spawn(second.go())

    background.spawn(first())
    await background.aclose()
    assert second.done


@pytest.mark.gen_test
async def test_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that nobody waits for is logged, but domain errors, which are told, are not."""
    background = BackgroundTasks()
    for problem in (SessionNotFound("It is gone."), RuntimeError("a bug")):
        job = GatedJob(problem)
        await cancel_caller(background, job)
        job.gate.set()
        await background.aclose()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

"""Background tasks run to their end, also when their caller was cancelled."""

from __future__ import annotations

import asyncio
import logging

import pytest

from era_kernels.concurrency.background import BackgroundTasks


class ExpectedError(Exception):
    """A failure that is reported to the caller, and need not be logged."""


class GatedJob:
    """Waits until its gate is opened, and records that it came to its end."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.done = False
        self.error = error

    async def go(self) -> str:
        await self.gate.wait()
        self.done = True
        if self.error is not None:
            raise self.error
        return "well"


async def cancel_caller(background: BackgroundTasks, job: GatedJob) -> None:
    """Starts the job, and cancels its caller while the job is under way."""
    caller = asyncio.create_task(background.run_shielded(job.go()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_caller_gets_the_result() -> None:
    """A caller that waits gets what the job returns, or what it raises."""
    background, job = BackgroundTasks(), GatedJob()
    job.gate.set()
    assert await background.run_shielded(job.go()) == "well"
    job.error = ExpectedError("It is gone.")
    with pytest.raises(ExpectedError):
        await background.run_shielded(job.go())


async def test_job_outlives_its_caller() -> None:
    """A cancelled caller ends at once; the job is done all the same."""
    background, job = BackgroundTasks(), GatedJob()
    await cancel_caller(background, job)
    job.gate.set()
    await background.aclose()
    assert job.done


async def test_close_waits_for_jobs_of_jobs() -> None:
    """Closing waits also for what a job starts."""
    background, second = BackgroundTasks(), GatedJob()
    second.gate.set()

    async def first() -> None:
        await asyncio.sleep(0)
        background.spawn(second.go())

    background.spawn(first())
    await background.aclose()
    assert second.done


async def test_bug_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that nobody waits for is logged, unless its type is expected."""
    background = BackgroundTasks(expected_errors=(ExpectedError,))
    for error in (ExpectedError("It is gone."), RuntimeError("a bug")):
        job = GatedJob(error)
        await cancel_caller(background, job)
        job.gate.set()
        await background.aclose()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

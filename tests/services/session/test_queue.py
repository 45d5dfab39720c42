"""The queue of a session runs slots in order, one at a time, and calls `on_idle` in between."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from era_kernels.errors import QueueFull
from era_kernels.models import Submission
from era_kernels.services.session.job import Job
from era_kernels.services.session.queue import RunQueue


class QueueFixture:
    """A queue whose runs wait for `gate` and `on_idle` for `may_idle`; records `events`."""

    def __init__(self, max_waiting: int = 100) -> None:
        self.queue = RunQueue(max_waiting, self._on_idle)
        self.gate = asyncio.Event()
        self.may_idle = asyncio.Event()
        self.may_idle.set()
        self.events: list[str] = []

    def add(self, code: str) -> Job[Submission]:
        job = Job(Submission(code), 30, self._run)
        self.queue.add(job)
        return job

    async def _run(self, job: Job[Submission]) -> None:
        await self.gate.wait()
        self.events.append(job.submission.code)

    async def _on_idle(self) -> None:
        await self.may_idle.wait()
        self.events.append("idle")


async def test_first_come_first_served() -> None:
    """A run keeps the first place until it is done; the others know their positions."""
    fixture = QueueFixture()
    jobs = [fixture.add(code) for code in "abc"]
    await asyncio.sleep(0)
    assert [fixture.queue.position(job) for job in jobs] == [0, 1, 2]
    fixture.gate.set()
    await jobs[1].done.wait()
    assert len(fixture.queue) <= 1
    await fixture.queue.wait_idle()
    assert fixture.events == ["a", "b", "c", "idle"]
    assert all(job.done.is_set() for job in jobs)


async def test_run_added_during_on_idle() -> None:
    """The worker never ends with a run in the queue; it calls `on_idle` again afterwards."""
    fixture = QueueFixture()
    fixture.gate.set()
    fixture.may_idle.clear()
    fixture.queue.wake()
    await asyncio.sleep(0)
    fixture.add("a")
    fixture.may_idle.set()
    await fixture.queue.wait_idle()
    assert fixture.events == ["idle", "a", "idle"]
    assert not fixture.queue.is_working


async def test_capacity() -> None:
    """One run is under way, `max_waiting` wait, the next is refused."""
    fixture = QueueFixture(max_waiting=1)
    for code in "ab":
        fixture.queue.check_capacity()
        fixture.add(code)
    with pytest.raises(QueueFull, match="1 runs wait"):
        fixture.queue.check_capacity()
    fixture.gate.set()
    await fixture.queue.wait_idle()
    fixture.queue.check_capacity()


async def test_a_run_that_is_over_takes_no_place() -> None:
    """Callers who know of a run's end find its place free, though its turn is not over yet."""
    fixture = QueueFixture(max_waiting=1)
    first, second = fixture.add("a"), fixture.add("b")
    with pytest.raises(QueueFull):
        fixture.queue.check_capacity()
    first.execution = SimpleNamespace(done_event=object(), set_position=lambda _: None)  # type: ignore[assignment]
    fixture.queue.check_capacity()
    assert fixture.queue.position(second) == 0
    fixture.gate.set()
    await fixture.queue.wait_idle()


async def test_idle_queue_is_not_waited_for() -> None:
    """`wait_idle` returns at once if the queue never worked; cancelling it changes nothing."""
    fixture = QueueFixture()
    await fixture.queue.wait_idle()
    fixture.add("a")
    waiting = asyncio.create_task(fixture.queue.wait_idle())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    fixture.gate.set()
    await fixture.queue.wait_idle()
    assert fixture.events == ["a", "idle"]


# ---------------------------------------------------------------- slots without a run


async def test_a_slot_waits_like_a_run() -> None:
    """A slot without a run comes between the runs before and behind it."""
    fixture = QueueFixture()

    async def other() -> None:
        async with fixture.queue.slot():
            fixture.events.append("other")
            await asyncio.sleep(0.01)
            fixture.events.append("done")

    fixture.add("a")
    work = asyncio.create_task(other())
    await asyncio.sleep(0)
    fixture.add("b")
    fixture.gate.set()
    await fixture.queue.wait_idle()
    assert fixture.events == ["a", "other", "done", "b", "idle"]
    await work


@pytest.mark.parametrize("steps", range(8))
async def test_a_slot_that_is_given_back(steps: int) -> None:
    """A cancelled slot leaves no gap, at whatever moment; those behind it move up."""
    fixture = QueueFixture()
    fixture.add("a")
    holders = [asyncio.create_task(_hold_slot(fixture)) for _ in range(2)]
    await asyncio.sleep(0)
    behind = fixture.add("b")
    fixture.gate.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    for holder in holders:
        holder.cancel()
    await asyncio.wait(holders)
    await fixture.queue.wait_idle()
    assert fixture.events == ["a", "b", "idle"]
    assert behind.done.is_set()
    assert len(fixture.queue) == 0


async def _hold_slot(fixture: QueueFixture) -> None:
    async with fixture.queue.slot():
        await asyncio.Event().wait()


async def test_a_waiting_slot_counts() -> None:
    """A waiting slot counts against `max_waiting` until it is given back."""
    fixture = QueueFixture(max_waiting=1)
    fixture.add("a")
    holder = asyncio.create_task(_hold_slot(fixture))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        fixture.queue.check_capacity()
    with pytest.raises(QueueFull):
        async with fixture.queue.slot():
            raise AssertionError
    holder.cancel()
    await asyncio.wait([holder])
    fixture.queue.check_capacity()
    fixture.gate.set()
    await fixture.queue.wait_idle()


async def test_a_slot_that_fails() -> None:
    """An error in a slot is raised to its holder; the queue goes on."""
    fixture = QueueFixture()
    fixture.gate.set()
    with pytest.raises(RuntimeError, match="mine"):
        async with fixture.queue.slot():
            raise RuntimeError("mine")
    fixture.add("a")
    await fixture.queue.wait_idle()
    assert "a" in fixture.events


async def test_idle_since() -> None:
    """`idle_since` is the end of the newest run."""
    fixture = QueueFixture()
    before = fixture.queue.idle_since
    fixture.add("a")
    await asyncio.sleep(0.01)
    fixture.gate.set()
    await fixture.queue.wait_idle()
    assert fixture.queue.idle_since > before

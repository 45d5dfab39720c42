"""The queue of a session: in order, one at a time, and it rests in between."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.errors import QueueFull
from era_kernels.models import Submission
from era_kernels.services.interruption import Interruption
from era_kernels.services.runs import Runs, Ticket


async def _nothing() -> None:
    """No session is there to be told."""


class Counter:
    """Serves when it is let; notes what happened."""

    def __init__(self, most: int = 100) -> None:
        self.runs = Runs(most, self._serve, self._rest)
        self.gate = asyncio.Event()
        self.resting = asyncio.Event()
        self.resting.set()
        self.story: list[str] = []

    def add(self, code: str) -> Ticket:
        ticket = Ticket(Submission(code), 30, Interruption(_nothing))
        self.runs.add(ticket)
        return ticket

    async def _serve(self, ticket: Ticket) -> None:
        await self.gate.wait()
        self.story.append(ticket.submission.code)

    async def _rest(self) -> None:
        await self.resting.wait()
        self.story.append("rest")


@pytest.mark.gen_test
async def test_first_come_first_served() -> None:
    """Who is served keeps the first place until it is done; the others know theirs."""
    counter = Counter()
    tickets = [counter.add(code) for code in "abc"]
    await asyncio.sleep(0)
    assert [counter.runs.position(ticket) for ticket in tickets] == [0, 1, 2]
    counter.gate.set()
    await tickets[1].left.wait()
    assert len(counter.runs) <= 1
    await counter.runs.wait_idle()
    assert counter.story == ["a", "b", "c", "rest"]
    assert all(ticket.left.is_set() for ticket in tickets)


@pytest.mark.gen_test
async def test_who_comes_while_it_rests_is_served() -> None:
    """The worker never ends with somebody in the queue; it rests again afterwards."""
    counter = Counter()
    counter.gate.set()
    counter.resting.clear()
    counter.runs.wake()
    await asyncio.sleep(0)
    counter.add("a")
    counter.resting.set()
    await counter.runs.wait_idle()
    assert counter.story == ["rest", "a", "rest"]
    assert not counter.runs.working


@pytest.mark.gen_test
async def test_room() -> None:
    """One is served, so many wait, the next is refused."""
    counter = Counter(most=1)
    for code in "ab":
        counter.runs.check_room()
        counter.add(code)
    with pytest.raises(QueueFull, match="1 runs wait"):
        counter.runs.check_room()
    counter.gate.set()
    await counter.runs.wait_idle()
    counter.runs.check_room()


@pytest.mark.gen_test
async def test_idle_queue_is_not_waited_for() -> None:
    """Waiting for a queue that never worked is over at once; who leaves disturbs nobody."""
    counter = Counter()
    await counter.runs.wait_idle()
    counter.add("a")
    waiting = asyncio.create_task(counter.runs.wait_idle())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    counter.gate.set()
    await counter.runs.wait_idle()
    assert counter.story == ["a", "rest"]


# ---------------------------------------------------------------- turns of others


@pytest.mark.gen_test
async def test_a_turn_waits_like_a_run() -> None:
    """Who does something else has its turn between the runs before and behind it."""
    counter = Counter()

    async def other() -> None:
        async with counter.runs.turn():
            counter.story.append("other")
            await asyncio.sleep(0.01)
            counter.story.append("done")

    counter.add("a")
    work = asyncio.create_task(other())
    await asyncio.sleep(0)
    counter.add("b")
    counter.gate.set()
    await counter.runs.wait_idle()
    assert counter.story == ["a", "other", "done", "b", "rest"]
    await work


@pytest.mark.gen_test
@pytest.mark.parametrize("steps", range(8))
async def test_a_turn_that_is_given_back(steps: int) -> None:
    """Who is cancelled leaves no gap, at whatever moment; those behind it move up."""
    counter = Counter()
    counter.add("a")
    turns = [asyncio.create_task(_take(counter)) for _ in range(2)]
    await asyncio.sleep(0)
    behind = counter.add("b")
    counter.gate.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    for turn in turns:
        turn.cancel()
    await asyncio.wait(turns)
    await counter.runs.wait_idle()
    assert counter.story == ["a", "b", "rest"]
    assert behind.left.is_set()
    assert len(counter.runs) == 0


async def _take(counter: Counter) -> None:
    async with counter.runs.turn():
        await asyncio.Event().wait()


@pytest.mark.gen_test
async def test_a_waiting_turn_counts() -> None:
    """A turn takes room in the queue while it waits, and none when it was given back."""
    counter = Counter(most=1)
    counter.add("a")
    turn = asyncio.create_task(_take(counter))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        counter.runs.check_room()
    with pytest.raises(QueueFull):
        async with counter.runs.turn():
            raise AssertionError
    turn.cancel()
    await asyncio.wait([turn])
    counter.runs.check_room()
    counter.gate.set()
    await counter.runs.wait_idle()


@pytest.mark.gen_test
async def test_a_turn_that_fails() -> None:
    """An error in a turn is its caller's; the queue goes on."""
    counter = Counter()
    counter.gate.set()
    with pytest.raises(RuntimeError, match="mine"):
        async with counter.runs.turn():
            raise RuntimeError("mine")
    counter.add("a")
    await counter.runs.wait_idle()
    assert "a" in counter.story


@pytest.mark.gen_test
async def test_idle_since() -> None:
    """The end of the newest run is remembered."""
    counter = Counter()
    before = counter.runs.idle_since
    counter.add("a")
    await asyncio.sleep(0.01)
    counter.gate.set()
    await counter.runs.wait_idle()
    assert counter.runs.idle_since > before

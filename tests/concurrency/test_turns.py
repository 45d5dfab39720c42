"""Turns come in order, in small groups while others want the loop, and at once when nobody does."""

from __future__ import annotations

import asyncio
import time

from era_kernels.concurrency.turns import REST, Turns

GROUP = 3


async def wait(turns: Turns, *, is_alone: bool) -> None:
    turn = turns.take(is_alone=is_alone)
    if turn is not None:
        await turn


async def rounds_of(turns: Turns, count: int, *, is_alone: bool) -> list[int]:
    """The rounds of the loop in which each of so many tasks went on; all begin in round 0."""
    round_, went_on, stop = 0, [], False

    async def count_rounds() -> None:
        nonlocal round_
        while not stop:
            await asyncio.sleep(0)
            round_ += 1

    async def task() -> None:
        await wait(turns, is_alone=is_alone)
        went_on.append(round_)

    counting = asyncio.create_task(count_rounds())
    await asyncio.gather(*(task() for _ in range(count)))
    stop = True
    await counting
    return went_on


async def test_alone() -> None:
    """Without others, no task waits for a round."""
    assert set(await rounds_of(Turns(GROUP), 50, is_alone=True)) <= {0, 1}


async def test_groups() -> None:
    """With others, no round has more than a group."""
    went_on = await rounds_of(Turns(GROUP), 20, is_alone=False)
    assert len(went_on) == 20
    assert max(went_on.count(round_) for round_ in went_on) <= GROUP


async def test_order() -> None:
    """Turns come in the order of the requests."""
    turns, order = Turns(GROUP), []

    async def task(number: int) -> None:
        await wait(turns, is_alone=number % 2 == 0)
        order.append(number)

    await asyncio.gather(*map(task, range(1, 30)))
    assert order == list(range(1, 30))


async def test_owners_take_turns() -> None:
    """Who asks for many turns makes others wait for few of them."""
    turns, order = Turns(GROUP), []

    async def task(owner: str) -> None:
        turn = turns.take(is_alone=False, owner=owner)
        assert turn is not None
        await turn
        order.append(owner)

    await asyncio.gather(*map(task, "aaaaaaaaaabbc"))
    assert "".join(order) == "abcab" + "a" * 8
    assert not turns._waiting


async def test_the_loop_is_left_to_others() -> None:
    """After a group, the loop is free for some times as long as it took of the processor."""
    turns, ends = Turns(2), []

    async def task() -> None:
        await wait(turns, is_alone=False)
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
        ends.append(time.monotonic())

    await asyncio.gather(*(task() for _ in range(6)))
    for first in (2, 4):
        assert ends[first] - ends[first - 1] > 0.01 + 0.02 * REST - 0.005


async def test_waiting_is_not_counted() -> None:
    """While the machine is busy a group may stand still: the loop is not free for longer then."""
    turns = Turns(2)

    async def task() -> None:
        await wait(turns, is_alone=False)
        time.sleep(0.05)

    began = time.monotonic()
    await asyncio.gather(*(task() for _ in range(6)))
    assert time.monotonic() - began < 6 * 0.05 + 0.05 * REST


async def test_caution() -> None:
    """Others count as there for a while after they were seen, and then no more."""
    turns = Turns(GROUP, caution=0.2)
    await wait(turns, is_alone=False)
    went_on = await rounds_of(turns, 10, is_alone=True)
    assert max(went_on.count(round_) for round_ in went_on) <= GROUP
    await asyncio.sleep(0.25)
    assert set(await rounds_of(turns, 10, is_alone=True)) <= {0, 1}


async def test_cancelled() -> None:
    """A task that is cancelled takes no turn from the others."""
    turns = Turns(1)
    tasks = [asyncio.create_task(wait(turns, is_alone=False)) for _ in range(6)]
    await asyncio.sleep(0)
    for task in tasks[1:4]:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks[:1], *tasks[4:])
    await wait(turns, is_alone=True)

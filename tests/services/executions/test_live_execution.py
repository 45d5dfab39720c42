"""One execution: its latest events, and those who follow it while it runs."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing

import pytest

from era_kernels.concurrency.turns import GROUP_SIZE
from era_kernels.errors import InsufficientStorage, StorageFailed
from era_kernels.models import (
    Display,
    Event,
    LoggedEvent,
    Stderr,
    Stdout,
    now,
)
from era_kernels.services.executions.feed import RecentEvents
from era_kernels.services.executions.live_execution import partial_result
from tests.services.executions.manual_execution import ManualExecution, recorded, seqs
from tests.services.executions.test_result import DONE
from tests.services.service_fixture import Services, events_of, logged_events_of, sleep_steps

BLOCK = "x" * 60_000


# ---------------------------------------------------------------- the recent events


def test_recent_events_after_a_number() -> None:
    """A reader can go on from any of the recent events."""
    recent = RecentEvents()
    assert seqs(recent.after(0)) == []
    recent.extend(recorded("a", "b", "c"))
    assert [seqs(recent.after(seq)) for seq in (0, 1, 3, 9)] == [[1, 2, 3], [2, 3], [], []]


def test_recent_events_are_bounded() -> None:
    """Events that are too old are only in the file."""
    recent = RecentEvents(max_bytes=1000)
    for seq in range(1, 100):
        recent.extend(recorded("x" * 100, first=seq))
    assert recent.after(0) is None
    assert recent.after(90) is None
    assert seqs(recent.after(97)) == [98, 99]


@pytest.mark.parametrize(
    "event", [Display({"text/plain": "x" * 10_000}), Stdout("x" * 2500 + "\U0001f600")]
)
def test_a_very_large_batch_is_only_in_the_log(event: Event) -> None:
    """Whatever comes in one batch, memory keeps a bounded part; text counts as it lies there."""
    recent = RecentEvents(max_bytes=1000, max_batch_bytes=9000)
    recent.extend(recorded("a"))
    recent.extend([LoggedEvent(2, now(), event)])
    assert recent.after(1) is None
    assert recent.after(2) == []
    recent.extend(recorded("b", first=3))
    assert seqs(recent.after(2)) == [3]
    recent.extend([LoggedEvent(4, now(), event)], is_logged=False)
    assert seqs(recent.after(3)) == [4]


def test_recent_events_have_the_last_batch_of_a_usual_size() -> None:
    """A reader that keeps pace never needs the file, also when the last event is not logged."""
    recent = RecentEvents(max_bytes=1000)
    recent.extend(recorded("a"))
    recent.extend(recorded("x" * 5000, "y" * 5000, first=2))
    assert seqs(recent.after(1)) == [2, 3]
    assert recent.after(0) is None


def test_recent_events_keep_the_newest_when_nothing_is_added() -> None:
    """An empty batch after a large one leaves the newest events in memory for readers."""
    recent = RecentEvents(max_bytes=10)
    events = recorded("x" * 100)
    recent.extend(events)
    recent.extend([])
    assert recent.after(0) == events


def test_recent_events_count_rich_outputs() -> None:
    """Rich outputs count with the size of their data."""
    recent = RecentEvents(max_bytes=1000)
    for seq in range(1, 4):
        recent.extend([LoggedEvent(seq, now(), Display({"image/png": "x" * 900}))])
    assert recent.after(0) is None
    assert seqs(recent.after(2)) == [3]


# ---------------------------------------------------------------- followers


async def test_reader_gets_everything_once(services: Services) -> None:
    """A reader from the start and one from the middle get each event once, in order."""
    live = await ManualExecution.open(services)
    await live.running.publish([Stdout("a"), Stderr("b")])
    readers = [asyncio.create_task(logged_events_of(live.running, after)) for after in (0, 1)]
    await asyncio.sleep(0)
    await live.running.publish([Stdout("c")])
    await live.finish()
    first, second = await asyncio.gather(*readers)
    assert seqs(first) == [1, 2, 3, 4]
    assert seqs(second) == [2, 3, 4]
    assert [item.event for item in first] == [Stdout("a"), Stderr("b"), Stdout("c"), DONE]


async def test_slow_reader_reads_the_file(services: Services) -> None:
    """A reader that stays far behind gets everything exactly once, in order, then goes live."""
    live = await ManualExecution.open(services)
    got: list[LoggedEvent] = []
    async with aclosing(live.running.follow()) as batches:
        await live.running.publish([Stdout("0")])
        got += await anext(batches)
        for n in range(1, 30):
            await live.running.publish([Stdout(f"{n} {BLOCK}")])
        got += await anext(batches)
        for n in range(30, 60):
            await live.running.publish([Stdout(f"{n} {BLOCK}")])
        while len(got) < 60:
            got += await anext(batches)
        await live.finish()
        got += [item async for batch in batches for item in batch]
    assert seqs(got) == list(range(1, 62))
    numbers = [item.event.content.split()[0] for item in got if isinstance(item.event, Stdout)]
    assert numbers == [str(n) for n in range(60)]


async def test_slow_reader_of_a_run_that_has_ended(services: Services) -> None:
    """The end of the run does not take the file away from readers of it."""
    live = await ManualExecution.open(services)
    for _ in range(10):
        await live.running.publish([Stdout(BLOCK)])
    await live.finish()
    assert seqs(await logged_events_of(live.running)) == list(range(1, 12))


async def test_end_that_cannot_be_logged(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader, too, gets the last events that the log could not take, however large."""
    live = await ManualExecution.open(services)
    for _ in range(10):
        await live.running.publish([Stdout(BLOCK)])
    live.fail_appends(monkeypatch)
    with pytest.raises(InsufficientStorage):
        await live.running.publish([Stdout("lost")])
    end: list[Event] = [Stderr(BLOCK * 5), DONE]
    live.running.publish_unlogged(end)
    await services.executions.finish(live.running, 1, "exit 1")
    events = await events_of(live.running)
    assert events == [Stdout(BLOCK)] * 10 + end
    _, answer = await partial_result(live.running)
    assert (answer.exit_code, answer.stderr) == (1, BLOCK * 5)


async def test_nothing_is_told_that_was_not_logged(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the log cannot take a batch, readers do not see it."""
    live = await ManualExecution.open(services)
    live.fail_appends(monkeypatch)
    with pytest.raises(InsufficientStorage):
        await live.running.publish([Stdout("a")])
    assert live.running.recent.last_seq == 0
    await services.executions.finish(live.running, 1, None)
    assert await events_of(live.running) == []


async def test_log_that_lost_events_is_no_endless_wait(services: Services) -> None:
    """A reader that needs events which the file has lost gets StorageFailed."""
    live = await ManualExecution.open(services)
    for _ in range(10):
        await live.running.publish([Stdout(BLOCK)])
    os.truncate(live.running.log._path, 0)
    with pytest.raises(StorageFailed, match="lost events"):
        await logged_events_of(live.running)
    await live.running.log.aclose()


async def test_reader_that_leaves(services: Services) -> None:
    """A reader that is cancelled disturbs neither the run nor the other readers."""
    live = await ManualExecution.open(services)
    readers = [asyncio.create_task(logged_events_of(live.running)) for _ in range(2)]
    await live.running.publish([Stdout("a")])
    readers[0].cancel()
    await live.finish()
    assert seqs(await readers[1]) == [1, 2]
    with pytest.raises(asyncio.CancelledError):
        await readers[0]


async def test_callers_share_the_result(services: Services) -> None:
    """However many wait for the result, it is made once; who leaves spoils nothing."""
    live = await ManualExecution.open(services)
    callers = [asyncio.create_task(live.running.result()) for _ in range(3)]
    await live.running.publish([Stdout("a")])
    callers.pop().cancel()
    await live.finish()
    first, second = await asyncio.gather(*callers)
    assert first is second
    assert first.stdout == "a"
    assert (await live.running.result()).stdout == "a"


async def test_many_readers_take_turns(services: Services) -> None:
    """All of them get all events; meanwhile the loop goes on, a few readers in each round."""
    live = await ManualExecution.open(services)
    readers = [asyncio.create_task(logged_events_of(live.running)) for _ in range(100)]
    await sleep_steps(5)
    most, before = 0, 0
    await live.running.publish([Stdout("a")])
    waiting = live.running._reader_turns._waiting
    for _ in range(20):
        left = sum(map(len, waiting.values()))
        most, before = max(most, before - left), left
        await asyncio.sleep(0)
    assert 0 < most <= GROUP_SIZE
    await live.finish()
    assert [seqs(one) for one in await asyncio.gather(*readers)] == [[1, 2]] * 100
    assert live.running._reader_count == 0

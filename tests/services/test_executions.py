"""Executions: followed live and again, answered, listed, kept within bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from era_kernels.errors import ExecutionNotFound, InsufficientStorage, StorageFailed
from era_kernels.models import (
    Display,
    Done,
    Event,
    ExecutionStatus,
    Recorded,
    Session,
    Stderr,
    Stdout,
    now,
)
from era_kernels.services.executions import TAIL_BYTES, Running, Tail
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services, events_of, recorded_of, sleep_briefly
from tests.services.test_fold import DONE

BLOCK = "x" * (TAIL_BYTES // 4)


def recorded(*texts: str, first: int = 1) -> list[Recorded]:
    return [Recorded(first + n, now(), Stdout(text)) for n, text in enumerate(texts)]


def seqs(batch: Sequence[Recorded] | None) -> list[int] | None:
    return None if batch is None else [item.seq for item in batch]


class Live:
    """An execution that a test appends to by hand."""

    def __init__(self, services: Services, session: Session, running: Running) -> None:
        self.services = services
        self.session = session
        self.running = running

    @classmethod
    async def open(cls, services: Services) -> Live:
        session = await services.create()
        return cls(services, session, await services.executions.open(session, "code"))

    async def finish(self) -> None:
        await self.running.publish([DONE])
        await self.services.executions.finish(self.running, 1, "exit 1")

    def fail_appends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def append(events: Sequence[Event]) -> list[Recorded]:
            raise InsufficientStorage("No room.")

        monkeypatch.setattr(self.running.log, "append", append)


# ---------------------------------------------------------------- the tail


def test_tail_gives_what_comes_after() -> None:
    """Any place within the tail is a place to go on from."""
    tail = Tail()
    assert seqs(tail.after(0)) == []
    tail.extend(recorded("a", "b", "c"))
    assert [seqs(tail.after(seq)) for seq in (0, 1, 3, 9)] == [[1, 2, 3], [2, 3], [], []]


def test_tail_is_bounded() -> None:
    """What is too old is only in the file."""
    tail = Tail(bound=1000)
    for seq in range(1, 100):
        tail.extend(recorded("x" * 100, first=seq))
    assert tail.after(0) is None
    assert tail.after(90) is None
    assert seqs(tail.after(97)) == [98, 99]


def test_tail_has_the_last_batch_whatever_its_size() -> None:
    """A reader that keeps pace never needs the file, nor one that waits for an unlogged end."""
    tail = Tail(bound=1000)
    tail.extend(recorded("a"))
    tail.extend(recorded("x" * 5000, "y" * 5000, first=2))
    assert seqs(tail.after(1)) == [2, 3]
    assert tail.after(0) is None


def test_tail_keeps_the_newest_when_nothing_is_added() -> None:
    """An empty batch after much was said leaves the newest event where readers look for it."""
    tail = Tail(bound=10)
    events = recorded("x" * 100)
    tail.extend(events)
    tail.extend([])
    assert tail.after(0) == events


def test_tail_weighs_rich_outputs() -> None:
    """Rich outputs count by what they hold."""
    tail = Tail(bound=1000)
    for seq in range(1, 4):
        tail.extend([Recorded(seq, now(), Display({"image/png": "x" * 900}))])
    assert tail.after(0) is None
    assert seqs(tail.after(2)) == [3]


# ---------------------------------------------------------------- followers


@pytest.mark.gen_test
async def test_reader_gets_everything_once(services: Services) -> None:
    """A reader from the start and one from the middle get each event once, in order."""
    live = await Live.open(services)
    await live.running.publish([Stdout("a"), Stderr("b")])
    readers = [asyncio.create_task(recorded_of(live.running, after)) for after in (0, 1)]
    await asyncio.sleep(0)
    await live.running.publish([Stdout("c")])
    await live.finish()
    first, second = await asyncio.gather(*readers)
    assert seqs(first) == [1, 2, 3, 4]
    assert seqs(second) == [2, 3, 4]
    assert [item.event for item in first] == [Stdout("a"), Stderr("b"), Stdout("c"), DONE]


@pytest.mark.gen_test
async def test_slow_reader_reads_the_file(services: Services) -> None:
    """A reader that stays far behind gets everything exactly once, in order, then goes live."""
    live = await Live.open(services)
    got: list[Recorded] = []
    async with aclosing(live.running.follow()) as batches:  # type: ignore[type-var]
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


@pytest.mark.gen_test
async def test_slow_reader_of_a_run_that_has_ended(services: Services) -> None:
    """The end of the run does not take the file away from those who still read it."""
    live = await Live.open(services)
    for _ in range(10):
        await live.running.publish([Stdout(BLOCK)])
    await live.finish()
    assert seqs(await recorded_of(live.running)) == list(range(1, 12))


@pytest.mark.gen_test
async def test_end_that_cannot_be_logged(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a slow reader is told an end that the log could not take, however large it is."""
    live = await Live.open(services)
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
    _, answer = await live.running.so_far()
    assert (answer.exit_code, answer.stderr) == (1, BLOCK * 5)


@pytest.mark.gen_test
async def test_nothing_is_told_that_was_not_logged(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the log cannot take a batch, readers do not see it."""
    live = await Live.open(services)
    live.fail_appends(monkeypatch)
    with pytest.raises(InsufficientStorage):
        await live.running.publish([Stdout("a")])
    assert live.running._tail.last_seq == 0
    await services.executions.finish(live.running, 1, None)
    assert await events_of(live.running) == []


@pytest.mark.gen_test
async def test_log_that_lost_events_is_no_endless_wait(services: Services) -> None:
    """A reader that needs events which the file does not have is told so."""
    live = await Live.open(services)
    for _ in range(10):
        await live.running.publish([Stdout(BLOCK)])
    os.truncate(live.running.log._path, 0)
    with pytest.raises(StorageFailed, match="lost events"):
        await recorded_of(live.running)
    await live.running.log.aclose()


@pytest.mark.gen_test
async def test_reader_that_leaves(services: Services) -> None:
    """A reader that is cancelled disturbs neither the run nor the other readers."""
    live = await Live.open(services)
    readers = [asyncio.create_task(recorded_of(live.running)) for _ in range(2)]
    await live.running.publish([Stdout("a")])
    readers[0].cancel()
    await live.finish()
    assert seqs(await readers[1]) == [1, 2]
    with pytest.raises(asyncio.CancelledError):
        await readers[0]


# ---------------------------------------------------------------- found again


@pytest.mark.gen_test
async def test_follow_of_a_finished_execution(services: Services) -> None:
    """A finished execution is read from its log, from any event on."""
    await services.create()
    running = await services.submit("out a\nout b")
    await running.answer()
    session = await services.session()
    for after in (0, 1, 2):
        batches = services.executions.follow(session, running.id, after)
        found = [item async for batch in batches for item in batch]
        assert found == (await recorded_of(running))[after:]
    assert isinstance(found[-1].event, Done)


@pytest.mark.gen_test
async def test_follow_of_a_live_execution(services: Services) -> None:
    """A live execution is followed to its end."""
    live = await Live.open(services)
    batches = services.executions.follow(live.session, live.running.id)
    await live.running.publish([Stdout("a")])
    assert seqs(await anext(batches)) == [1]
    await live.finish()
    assert [seqs(batch) async for batch in batches] == [[2]]


@pytest.mark.gen_test
async def test_number_that_a_live_execution_has_not_reached(services: Services) -> None:
    """It stands for the last there is: a reader that lost count still learns of the end."""
    live = await Live.open(services)
    await live.running.publish([Stdout("a")])
    reader = asyncio.create_task(recorded_of(live.running, after=1000))
    await sleep_briefly()
    await live.finish()
    assert seqs(await reader) == [2]


@pytest.mark.gen_test
async def test_foreign_execution_is_not_found(services: Services) -> None:
    """An execution belongs to its session: another's, live or finished, is not found."""
    await services.create("s1")
    other = await services.create("s2")
    running = await services.submit("gate a")
    for finished in (False, True):
        if finished:
            services.gates["a"].set()
            await running.answer()
        for call in (
            services.executions.get("s2", running.id),
            services.executions.answer(other, running.id),
            services.executions.text(other, running.id, "stdout"),
            anext(services.executions.follow(other, running.id)),
        ):
            with pytest.raises(ExecutionNotFound):
                await call


@pytest.mark.gen_test
async def test_answer_so_far_and_at_the_end(services: Services) -> None:
    """Without `wait` the answer is of now; with it, of the end, as soon as that comes."""
    session = await services.create()
    running = await services.submit("out a\ngate b\nout c\nexit 3")
    await services.until_running(1)
    await anext(running.follow())
    execution, answer = await services.executions.answer(session, running.id)
    assert (execution.status, answer.stdout, answer.exit_code) == ("running", "a\n", None)
    execution, answer = await services.executions.answer(session, running.id, wait=0.01)
    assert answer.exit_code is None
    waiting = asyncio.create_task(services.executions.answer(session, running.id, wait=1e300))
    await asyncio.sleep(0)
    services.gates["b"].set()
    execution, answer = await waiting
    assert (execution.status, execution.exit_code) == ("finished", 3)
    assert (answer.stdout, answer.exit_code) == ("a\nc\n", 3)
    again = await services.executions.answer(session, running.id, wait=10)
    assert again == (execution, answer)


@pytest.mark.gen_test
async def test_row_is_never_older_than_the_answer(services: Services) -> None:
    """Who has a run's answer finds its execution finished, though nobody waited for its row."""
    await services.create()
    for _ in range(20):
        running = await services.submit("exit 3")
        await running.answer()
        execution = await services.executions.get("s1", running.id)
        assert (execution.status, execution.exit_code) == (ExecutionStatus.FINISHED, 3)


@pytest.mark.gen_test
async def test_finished_row_helps_a_log_without_an_end(services: Services) -> None:
    """A finished execution has its exit code, also when its log could not take the end."""
    live = await Live.open(services)
    await live.running.publish([Stdout("a")])
    await services.executions.finish(live.running, 1, "exit 1")
    _, answer = await services.executions.answer(live.session, live.running.id)
    assert (answer.stdout, answer.exit_code, answer.cause) == ("a", 1, "exit 1")


@pytest.mark.gen_test
async def test_list_shows_live_ones_as_they_are(services: Services) -> None:
    """The list has each execution's present state and place in the queue, oldest first."""
    await services.create()
    runs = [await services.submit(f"gate {name}") for name in "abc"]
    await services.until_running(1)
    listed, total = await services.executions.list_executions("s1")
    assert total == 3
    assert [one.id for one in listed] == [run.id for run in runs]
    assert [(one.status.value, one.position) for one in listed] == [
        ("running", None),
        ("queued", 1),
        ("queued", 2),
    ]
    services.gates["a"].set()
    await services.until_running(2)
    listed, _ = await services.executions.list_executions("s1", limit=2, offset=1)
    assert [one.position for one in listed] == [None, 1]


@pytest.mark.gen_test
async def test_text_of_one_stream(services: Services) -> None:
    """The text of a stream is bytes of UTF-8, any range of them, live and afterwards."""
    session = await services.create()
    running = await services.submit("out ä\nerr b\ngate c\nout d")
    await services.until_running(1)
    while (await services.executions.text(session, running.id, "stderr")).total == 0:
        await sleep_briefly()
    text = await services.executions.text(session, running.id, "stdout")
    assert text.total == 3
    assert [piece async for piece in text.read(0, 3)] == ["ä\n".encode()]
    services.gates["c"].set()
    await running.answer()
    text = await services.executions.text(session, running.id, "stdout")
    assert b"".join([piece async for piece in text.read(2, text.total)]) == b"\nd\n"


@pytest.fixture
def keeps_two(open_services: OpenServices) -> Services:
    return open_services(keep=2)


@pytest.mark.gen_test
async def test_only_so_many_are_kept(keeps_two: Services) -> None:
    """The oldest executions are dropped, never the newest."""
    await keeps_two.create()
    runs = [await keeps_two.submit(f"out {n}") for n in range(4)]
    for running in runs:
        await running.answer()
    await keeps_two.sessions._live["s1"].wait_idle()
    listed, total = await keeps_two.executions.list_executions("s1")
    assert [one.id for one in listed] == [running.id for running in runs[2:]]
    assert total == 2

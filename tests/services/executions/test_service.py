"""Executions are followed live and again, have results, are listed, and kept within limits."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.errors import ExecutionNotFound
from era_kernels.models import (
    Done,
    ExecutionStatus,
    Stdout,
)
from era_kernels.services.executions.feed import MAX_RECENT_BYTES
from tests.services.conftest import OpenServices
from tests.services.executions.manual_execution import ManualExecution, seqs
from tests.services.service_fixture import Services, logged_events_of, sleep_briefly

BLOCK = "x" * (MAX_RECENT_BYTES // 4)


# ---------------------------------------------------------------- found again


async def test_follow_of_a_finished_execution(services: Services) -> None:
    """A finished execution is read from its log, from any event on."""
    await services.create()
    running = await services.submit("out a\nout b")
    await running.result()
    session = await services.session()
    for after in (0, 1, 2):
        batches = services.executions.follow(session, running.id, after)
        found = [item async for batch in batches for item in batch]
        assert found == (await logged_events_of(running))[after:]
    assert isinstance(found[-1].event, Done)


async def test_follow_of_a_live_execution(services: Services) -> None:
    """A live execution is followed to its end."""
    live = await ManualExecution.open(services)
    batches = services.executions.follow(live.session, live.running.id)
    await live.running.publish([Stdout("a")])
    assert seqs(await anext(batches)) == [1]
    await live.finish()
    assert [seqs(batch) async for batch in batches] == [[2]]


async def test_number_that_a_live_execution_has_not_reached(services: Services) -> None:
    """A number not yet reached counts as the last event's: the reader still learns of the end."""
    live = await ManualExecution.open(services)
    await live.running.publish([Stdout("a")])
    reader = asyncio.create_task(logged_events_of(live.running, after=1000))
    await sleep_briefly()
    await live.finish()
    assert seqs(await reader) == [2]


async def test_foreign_execution_is_not_found(services: Services) -> None:
    """An execution belongs to its session: another's, live or finished, is not found."""
    await services.create("s1")
    other = await services.create("s2")
    running = await services.submit("gate a")
    for finished in (False, True):
        if finished:
            services.gates["a"].set()
            await running.result()
        for call in (
            services.executions.get("s2", running.id),
            services.executions.result(other, running.id),
            services.executions.text(other, running.id, "stdout"),
            anext(services.executions.follow(other, running.id)),
        ):
            with pytest.raises(ExecutionNotFound):
                await call


async def test_answer_so_far_and_at_the_end(services: Services) -> None:
    """Without `wait_timeout` the result is that of now; with it, of the end, once that comes."""
    session = await services.create()
    running = await services.submit("out a\ngate b\nout c\nexit 3")
    await services.until_running(1)
    await anext(running.follow())
    execution, answer = await services.executions.result(session, running.id)
    assert (execution.status, answer.stdout, answer.exit_code) == ("running", "a\n", None)
    execution, answer = await services.executions.result(session, running.id, wait_timeout=0.01)
    assert answer.exit_code is None
    waiting = asyncio.create_task(
        services.executions.result(session, running.id, wait_timeout=1e300)
    )
    await asyncio.sleep(0)
    services.gates["b"].set()
    execution, answer = await waiting
    assert (execution.status, execution.exit_code) == ("finished", 3)
    assert (answer.stdout, answer.exit_code) == ("a\nc\n", 3)
    again = await services.executions.result(session, running.id, wait_timeout=10)
    assert again == (execution, answer)


async def test_row_is_never_older_than_the_answer(services: Services) -> None:
    """A caller with a run's result finds its execution finished, before its row is written."""
    await services.create()
    for _ in range(20):
        running = await services.submit("exit 3")
        await running.result()
        execution = await services.executions.get("s1", running.id)
        assert (execution.status, execution.exit_code) == (ExecutionStatus.FINISHED, 3)


async def test_finished_row_helps_a_log_without_an_end(services: Services) -> None:
    """A finished execution has its exit code, also when its log could not take the end."""
    live = await ManualExecution.open(services)
    await live.running.publish([Stdout("a")])
    await services.executions.finish(live.running, 1, "exit 1")
    _, answer = await services.executions.result(live.session, live.running.id)
    assert (answer.stdout, answer.exit_code, answer.cause) == ("a", 1, "exit 1")


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
    await running.result()
    text = await services.executions.text(session, running.id, "stdout")
    assert b"".join([piece async for piece in text.read(2, text.total)]) == b"\nd\n"


@pytest.fixture
def services_keeping_two(open_services: OpenServices) -> Services:
    return open_services(keep=2)


async def test_only_so_many_are_kept(services_keeping_two: Services) -> None:
    """The oldest executions are dropped, never the newest."""
    await services_keeping_two.create()
    runs = [await services_keeping_two.submit(f"out {n}") for n in range(4)]
    for running in runs:
        await running.result()
    await services_keeping_two.sessions._live["s1"].wait_idle()
    listed, total = await services_keeping_two.executions.list_executions("s1")
    assert [one.id for one in listed] == [running.id for running in runs[2:]]
    assert total == 2

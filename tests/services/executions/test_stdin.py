"""Readers answer input requests; without a reader the program gets the end of input."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.errors import NoInputPending
from era_kernels.models import InputRequest, Stdout
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.executions.stdin import MAX_PENDING, StdinBroker
from tests.fakes import FakeControlClient
from tests.services.service_fixture import Services, events_of, sleep_briefly


def question(key: str) -> InputRequest:
    return InputRequest("? ", key=key)


async def until_asked(running: LiveExecution) -> None:
    """Waits until the question is among the events."""
    async for batch in running.follow():
        if any(isinstance(item.event, InputRequest) for item in batch):
            return


async def follow_with_input(running: LiveExecution) -> list[object]:
    """Returns the events that a reader gets who may answer."""
    return [item.event async for batch in running.follow_with_input() for item in batch]


# ---------------------------------------------------------------- the rules


async def test_no_reader() -> None:
    """Without a reader the program gets the end of input at once, and no reader the request."""
    inputs, kernel = StdinBroker(), FakeControlClient()
    with inputs.attach(kernel):
        assert not inputs.offer(question("a"))
        assert kernel.answers == {"a": None}
        with pytest.raises(NoInputPending):
            await inputs.reply("line")


async def test_oldest_question_is_answered_first() -> None:
    """Several threads of a program may ask; each gets a line in the order of the questions."""
    inputs, kernel = StdinBroker(), FakeControlClient()
    with inputs.attach(kernel), inputs.reader():
        assert inputs.offer(question("a"))
        assert inputs.offer(question("b"))
        await inputs.reply("1")
        await inputs.reply("2")
        assert kernel.answers == {"a": "1", "b": "2"}
        with pytest.raises(NoInputPending):
            await inputs.reply("3")


async def test_question_that_was_withdrawn() -> None:
    """A line goes to the oldest question that still waits: an interrupt may have ended others."""
    inputs, kernel = StdinBroker(), FakeControlClient()
    kernel.withdrawn_keys = {"a", "c"}
    with inputs.attach(kernel), inputs.reader():
        for key in "abc":
            inputs.offer(question(key))
        await inputs.reply("1")
        assert kernel.answers == {"b": "1"}
        with pytest.raises(NoInputPending):
            await inputs.reply("2")


async def test_questions_are_bounded() -> None:
    """Of a program that asks without end, the newest questions wait; the others are refused."""
    inputs, kernel = StdinBroker(), FakeControlClient()
    with inputs.attach(kernel), inputs.reader():
        assert all(inputs.offer(question(str(n))) for n in range(1000))
        assert kernel.answers == {str(n): None for n in range(1000 - MAX_PENDING)}
        await inputs.reply("line")
    assert kernel.answers[str(1000 - MAX_PENDING)] == "line"


async def test_last_reader_leaves() -> None:
    """Some time after the last reader has left, the program gets the end of input."""
    inputs, kernel = StdinBroker(abandoned_timeout=0.05), FakeControlClient()
    with inputs.attach(kernel):
        with inputs.reader():
            with inputs.reader():
                inputs.offer(question("a"))
            await asyncio.sleep(0.1)
            assert not kernel.answers
        assert not kernel.answers
        assert await kernel.wait_for_answer("a") is None
        with pytest.raises(NoInputPending):
            await inputs.reply("late")


async def test_reader_comes_back() -> None:
    """A reader that comes back in time finds the question still open."""
    inputs, kernel = StdinBroker(abandoned_timeout=0.05), FakeControlClient()
    with inputs.attach(kernel):
        with inputs.reader():
            inputs.offer(question("a"))
        with inputs.reader():
            await asyncio.sleep(0.1)
            assert not kernel.answers
            await inputs.reply("line")
    assert kernel.answers == {"a": "line"}


async def test_answer_without_a_reader_in_time() -> None:
    """Until the timeout a line is taken without a reader; a new question is refused."""
    inputs, kernel = StdinBroker(abandoned_timeout=5), FakeControlClient()
    with inputs.attach(kernel):
        with inputs.reader():
            inputs.offer(question("a"))
        assert not inputs.offer(question("b"))
        await inputs.reply("line")
    assert kernel.answers == {"a": "line", "b": None}


async def test_end_of_the_run_ends_questions() -> None:
    """A question ends with its run, also without a reader."""
    inputs, kernel = StdinBroker(abandoned_timeout=0.02), FakeControlClient()
    with inputs.reader():
        with inputs.attach(kernel):
            inputs.offer(question("a"))
        with pytest.raises(NoInputPending):
            await inputs.reply("line")
        assert not inputs.offer(question("b"))
    await asyncio.sleep(0.05)
    assert not kernel.answers


# ---------------------------------------------------------------- in a session


async def test_run_without_readers(services: Services) -> None:
    """A run without readers gets the end of input, and the event is not kept."""
    await services.create()
    running = await services.submit("ask name?")
    answer = await running.result()
    assert answer.stdout == "end of file"
    assert not [event for event in await events_of(running) if isinstance(event, InputRequest)]


async def test_run_with_a_reader(services: Services) -> None:
    """A reader sees the question and answers it; neither is a part of the output."""
    await services.create()
    running = await services.submit("gate go\nask name?\nout end")
    reading = asyncio.create_task(follow_with_input(running))
    await sleep_briefly()
    services.gates["go"].set()
    await until_asked(running)
    await running.stdin.reply("Ada")
    events, answer = await reading, await running.result()
    assert [event.prompt for event in events if isinstance(event, InputRequest)] == ["name?"]
    assert Stdout("Ada") in events  # which the program printed itself
    assert answer.stdout == "Adaend\n"
    assert running.control is None


async def test_key_is_not_kept(services: Services) -> None:
    """The log holds the question without the key by which its kernel knows the answer."""
    await services.create()
    running = await services.submit("gate go\nask name?")
    reading = asyncio.create_task(follow_with_input(running))
    await sleep_briefly()
    services.gates["go"].set()
    await until_asked(running)
    await running.stdin.reply("Ada")
    await reading
    session = await services.session()
    kept = [
        item.event
        async for batch in services.executions.follow(session, running.id)
        for item in batch
        if isinstance(item.event, InputRequest)
    ]
    assert kept == [InputRequest("name?", False, "")]


@pytest.mark.parametrize("end", ["delete", "restart", "die"])
async def test_end_while_it_waits(services: Services, end: str) -> None:
    """Deletion, restart and death end a run that waits for input as any other."""
    await services.create()
    running = await services.submit("gate go\nask name?")
    reading = asyncio.create_task(follow_with_input(running))
    await sleep_briefly()
    services.gates["go"].set()
    await until_asked(running)
    if end == "delete":
        await services.sessions.delete("s1")
    elif end == "restart":
        await services.sessions.restart("s1", "")
    else:
        await services.host.machines[0].aclose()
    await reading
    assert (await running.result()).exit_code == 137
    with pytest.raises(NoInputPending):
        await running.stdin.reply("late")

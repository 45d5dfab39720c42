"""What a kernel says goes to the log first, then to the readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.kernels.machine import Machine
from era_kernels.models import Ending, Event, Finished, Limits, Recorded, Request, Stdout
from era_kernels.services.executions import Running
from era_kernels.services.pump import UNHEARD, pump, size_text
from tests.fakes import FakeHost, FakeMachine, Item, Script
from tests.services.service_fixture import PLACE, Services

REQUEST = Request("code", {}, 30, 1)


async def parts(services: Services, script: Script) -> tuple[Running, FakeMachine]:
    session = await services.create()
    running = await services.executions.open(session, "code")
    return running, await FakeHost(script).open("alpha", PLACE, Limits(), {})


async def pumped(running: Running, machine: FakeMachine, most: int = 1 << 30) -> Finished:
    finished = await pump(running, cast(Machine, machine), REQUEST, most)
    await house_done(running)
    return finished


async def house_done(running: Running) -> None:
    await running.log.aclose()


async def logged(running: Running) -> list[Event]:
    return [item.event async for batch in running.log.read() for item in batch]


async def three(machine: FakeMachine, request: Request) -> AsyncIterator[Item | list[Item]]:
    yield [Stdout("a"), Stdout("b")]
    yield [Stdout("c"), Finished(3)]


async def chatter(machine: FakeMachine, request: Request) -> AsyncIterator[Item]:
    """A program that goes on until it is ended."""
    while True:
        yield Stdout("x" * 1000)


@pytest.mark.gen_test
async def test_events_are_logged(services: Services) -> None:
    """Everything but the end is in the log; the end is returned."""
    running, machine = await parts(services, three)
    assert await pumped(running, machine) == Finished(3)
    assert await logged(running) == [Stdout("a"), Stdout("b"), Stdout("c")]


@pytest.mark.gen_test
async def test_log_comes_first(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader has seen is written: nothing is published before the log has it."""
    running, machine = await parts(services, three)
    written: list[Recorded] = []
    append = running.log.append

    async def noted(events: Sequence[Event]) -> list[Recorded]:
        recorded = await append(events)
        written.extend(recorded)
        return recorded

    monkeypatch.setattr(running.log, "append", noted)
    seen: list[Recorded] = []

    async def read() -> None:
        async for batch in running.follow():
            seen.extend(batch)
            assert written[: len(seen)] == seen

    reader = asyncio.create_task(read())
    await pumped(running, machine)
    running.end(3, None)
    await reader
    assert seen == written


@pytest.mark.gen_test
async def test_output_limit_ends_the_machine(services: Services) -> None:
    """A run whose log grows past the limit is ended, and the cause names the limit."""
    running, machine = await parts(services, chatter)
    finished = await pumped(running, machine, most=64 * 1024)
    assert (finished.exit_code, finished.state) == (137, "lost")
    assert finished.ending == Ending(reason="output limit 64 KiB")
    assert running.log.size < 70 * 1024


@pytest.mark.gen_test
async def test_full_disk_ends_the_machine(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written down must not go on: the run ends, and the problem is known."""
    running, machine = await parts(services, chatter)

    async def append(events: Sequence[Event]) -> list[Recorded]:
        raise InsufficientStorage("No room.")

    monkeypatch.setattr(running.log, "append", append)
    finished = await pumped(running, machine)
    assert finished == Finished(137, state="lost", ending=Ending(reason=UNHEARD))
    assert isinstance(running.problem, InsufficientStorage)


@pytest.mark.gen_test
async def test_bug_ends_the_machine(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bug of the server the program does not go on unseen either."""
    running, machine = await parts(services, chatter)

    async def append(events: Sequence[Event]) -> list[Recorded]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(running.log, "append", append)
    with pytest.raises(RuntimeError):
        await pumped(running, machine)
    assert machine.ended.done()
    await house_done(running)


@pytest.mark.parametrize(
    ("size", "text"),
    [(1 << 30, "1 GiB"), (10 << 20, "10 MiB"), (3 << 10, "3 KiB"), (1000, "1000 bytes")],
)
def test_sizes_in_words(size: int, text: str) -> None:
    """Sizes are told in the largest unit in which they are whole."""
    assert size_text(size) == text

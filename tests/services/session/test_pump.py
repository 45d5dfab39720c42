"""A kernel's output goes to the log first, then to the readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.kernels.machine import Machine
from era_kernels.models import (
    Event,
    ExecutionEnd,
    ExitInfo,
    KernelRequest,
    Limits,
    LoggedEvent,
    Stdout,
)
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.session.runner import OUTPUT_LOST, format_size, pump
from era_kernels.services.session.runs import kernel_process
from tests.fakes import FakeHost, FakeMachine, Item, Script
from tests.services.service_fixture import SESSION_PATHS, Services

REQUEST = KernelRequest("code", {}, 30, 1)


async def open_parts(services: Services, script: Script) -> tuple[LiveExecution, FakeMachine]:
    session = await services.create()
    running = await services.executions.open(session, "code")
    return running, await FakeHost(script).open("alpha", SESSION_PATHS, Limits(), {})


async def run_pump(
    running: LiveExecution, machine: FakeMachine, max_bytes: int = 1 << 30
) -> ExecutionEnd:
    end = await pump(running, kernel_process(cast(Machine, machine), REQUEST), max_bytes)
    await close_log(running)
    return end


async def close_log(running: LiveExecution) -> None:
    await running.log.aclose()


async def logged_events(running: LiveExecution) -> list[Event]:
    return [item.event async for batch in running.log.read() for item in batch]


async def three_outputs(
    machine: FakeMachine, request: KernelRequest
) -> AsyncIterator[Item | list[Item]]:
    yield [Stdout("a"), Stdout("b")]
    yield [Stdout("c"), ExecutionEnd(3)]


async def endless_output(machine: FakeMachine, request: KernelRequest) -> AsyncIterator[Item]:
    """Code that goes on until it is ended."""
    while True:
        yield Stdout("x" * 1000)


async def test_events_are_logged(services: Services) -> None:
    """Everything but the end is in the log; the end is returned."""
    running, machine = await open_parts(services, three_outputs)
    assert await run_pump(running, machine) == ExecutionEnd(3)
    assert await logged_events(running) == [Stdout("a"), Stdout("b"), Stdout("c")]


async def test_log_comes_first(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is published before it is in the log."""
    running, machine = await open_parts(services, three_outputs)
    written: list[LoggedEvent] = []
    append = running.log.append

    async def noted(events: Sequence[Event]) -> list[LoggedEvent]:
        recorded = await append(events)
        written.extend(recorded)
        return recorded

    monkeypatch.setattr(running.log, "append", noted)
    seen: list[LoggedEvent] = []

    async def read() -> None:
        async for batch in running.follow():
            seen.extend(batch)
            assert written[: len(seen)] == seen

    reader = asyncio.create_task(read())
    await run_pump(running, machine)
    running.finish(3, None)
    await reader
    assert seen == written


async def test_output_limit_ends_the_machine(services: Services) -> None:
    """A run whose log grows past the limit is ended, and the cause names the limit."""
    running, machine = await open_parts(services, endless_output)
    finished = await run_pump(running, machine, max_bytes=64 * 1024)
    assert (finished.exit_code, finished.state) == (137, "lost")
    assert finished.exit_info == ExitInfo(reason="output limit 64 KiB")
    assert running.log.size < 70 * 1024


async def test_full_disk_ends_the_machine(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose log cannot be written ends, and carries the error."""
    running, machine = await open_parts(services, endless_output)

    async def append(events: Sequence[Event]) -> list[LoggedEvent]:
        raise InsufficientStorage("No room.")

    monkeypatch.setattr(running.log, "append", append)
    finished = await run_pump(running, machine)
    assert finished == ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=OUTPUT_LOST))
    assert isinstance(running.error, InsufficientStorage)


async def test_bug_ends_the_machine(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bug in the server the run does not go on either."""
    running, machine = await open_parts(services, endless_output)

    async def append(events: Sequence[Event]) -> list[LoggedEvent]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(running.log, "append", append)
    with pytest.raises(RuntimeError):
        await run_pump(running, machine)
    assert machine.ended.done()
    await close_log(running)


@pytest.mark.parametrize(
    ("size", "text"),
    [(1 << 30, "1 GiB"), (10 << 20, "10 MiB"), (3 << 10, "3 KiB"), (1000, "1000 bytes")],
)
def test_format_size(size: int, text: str) -> None:
    """Sizes are formatted in the largest unit in which they are whole."""
    assert format_size(size) == text

"""Inspection answers while sessions work, and starts nothing."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from era_kernels.errors import ExecutionNotFound, NotRunning, NotSupported, SessionNotFound
from era_kernels.kernels.languages import Languages
from era_kernels.models import StackFrame, Variable, Variables
from era_kernels.services.inspection import InspectionService
from tests.fakes import make_kernelspec
from tests.services.service_fixture import Services, sleep_briefly

FRAMES = [StackFrame("<cell 1>", 1, "f", "f()")]
FOUND = Variables((Variable("a", "int", value=1),))


def make_inspection(services: Services, *capabilities: str) -> InspectionService:
    kernelspec = dataclasses.replace(make_kernelspec("alpha"), capabilities=capabilities)
    return InspectionService(services.sessions, services.executions, Languages([kernelspec]))


async def test_stack_of_a_run(services: Services) -> None:
    """A running execution has frames; before and after that it has none."""
    await services.create()
    look = make_inspection(services, "stack")
    running = await services.submit("gate go")
    waiting = await services.submit("out a")
    await services.until_running(1)
    services.host.machines[0].kernel.control.frames = FRAMES
    assert await look.stack("s1", running.id) == (FRAMES, "alpha")
    with pytest.raises(NotRunning):
        await look.stack("s1", waiting.id)
    services.gates["go"].set()
    await waiting.result()
    with pytest.raises(NotRunning):
        await look.stack("s1", running.id)


async def test_stack_while_the_kernel_starts(services: Services) -> None:
    """A run whose kernel only starts has no frames yet."""
    await services.create()
    services.host.open_gate = asyncio.Event()
    running = await services.submit("out a")
    await services.until_starting()
    assert await make_inspection(services, "stack").stack("s1", running.id) == ([], "alpha")
    services.host.open_gate.set()
    await running.result()


async def test_run_that_ends_meanwhile(services: Services) -> None:
    """Frames that may be another run's are not returned."""
    await services.create()
    running = await services.submit("gate go")
    await services.until_running(1)

    async def slow() -> list[StackFrame]:
        services.gates["go"].set()
        await running.result()
        return FRAMES

    services.host.machines[0].kernel.control.stack = slow  # type: ignore[method-assign]
    with pytest.raises(NotRunning):
        await make_inspection(services, "stack").stack("s1", running.id)


async def test_variables(services: Services) -> None:
    """Variables are the kernel's, during a run and after it; without a kernel there are none."""
    await services.create()
    look = make_inspection(services, "variables")
    assert await look.variables("s1") == Variables()
    assert not services.host.machines
    running = await services.submit("gate go")
    await services.until_running(1)
    services.host.machines[0].kernel.control.variables_found = FOUND
    assert await look.variables("s1") == FOUND
    services.gates["go"].set()
    await running.result()
    assert await look.variables("s1") == FOUND
    await services.host.machines[0].aclose()
    await sleep_briefly()
    assert await look.variables("s1") == Variables()


async def test_what_is_not_there(services: Services) -> None:
    """Unknown sessions and executions are errors, those of other sessions too."""
    await services.create()
    await services.create("s2")
    look = make_inspection(services, "stack", "variables")
    running = await services.submit("gate go")
    for wrong, ask in (
        (SessionNotFound, look.variables("s3")),
        (SessionNotFound, look.stack("s3", running.id)),
        (ExecutionNotFound, look.stack("s2", running.id)),
        (ExecutionNotFound, look.stack("s1", "exec-0")),
    ):
        with pytest.raises(wrong):
            await ask
    services.gates["go"].set()
    await running.result()


async def test_language_that_cannot(services: Services) -> None:
    """A language whose kernelspec does not name the capability is refused with a message."""
    await services.create()
    running = await services.submit("gate go")
    await services.until_running(1)
    with pytest.raises(NotSupported, match="alpha cannot tell its stack"):
        await make_inspection(services).stack("s1", running.id)
    with pytest.raises(NotSupported, match="alpha cannot tell its variables"):
        await make_inspection(services).variables("s1")
    services.gates["go"].set()
    await running.result()

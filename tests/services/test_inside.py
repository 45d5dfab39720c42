"""A look inside sessions: what may be asked when, and that nothing is started for it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from era_kernels.errors import ExecutionNotFound, NotRunning, NotSupported, SessionNotFound
from era_kernels.kernels.languages import Languages
from era_kernels.models import Frame, Variable, Variables
from era_kernels.services.inside import Insights
from tests.fakes import a_language
from tests.services.house import House, soon

FRAMES = [Frame("<cell 1>", 1, "f", "f()")]
FOUND = Variables((Variable("a", "int", value=1),))


def insights(house: House, *capabilities: str) -> Insights:
    language = dataclasses.replace(a_language("alpha"), capabilities=capabilities)
    return Insights(house.sessions, house.executions, Languages([language]))


@pytest.mark.gen_test
async def test_stack_of_a_run(house: House) -> None:
    """A run that is under way has frames; before and after that there is nothing to tell."""
    await house.create()
    look = insights(house, "stack")
    running = await house.submit("gate go")
    waiting = await house.submit("out a")
    await house.until_running(1)
    house.host.machines[0].kernel.inside.frames = FRAMES
    assert await look.stack("s1", running.id) == (FRAMES, "alpha")
    with pytest.raises(NotRunning):
        await look.stack("s1", waiting.id)
    house.gates["go"].set()
    await waiting.answer()
    with pytest.raises(NotRunning):
        await look.stack("s1", running.id)


@pytest.mark.gen_test
async def test_stack_while_the_kernel_starts(house: House) -> None:
    """A run whose kernel only starts is nowhere yet."""
    await house.create()
    house.host.opening = asyncio.Event()
    running = await house.submit("out a")
    await house.until_starting()
    assert await insights(house, "stack").stack("s1", running.id) == ([], "alpha")
    house.host.opening.set()
    await running.answer()


@pytest.mark.gen_test
async def test_run_that_ends_meanwhile(house: House) -> None:
    """Frames that may be another run's are not told."""
    await house.create()
    running = await house.submit("gate go")
    await house.until_running(1)

    async def slow() -> list[Frame]:
        house.gates["go"].set()
        await running.answer()
        return FRAMES

    house.host.machines[0].kernel.inside.stack = slow  # type: ignore[method-assign]
    with pytest.raises(NotRunning):
        await insights(house, "stack").stack("s1", running.id)


@pytest.mark.gen_test
async def test_variables(house: House) -> None:
    """They are the kernel's, during a run and after it; without a kernel there are none."""
    await house.create()
    look = insights(house, "variables")
    assert await look.variables("s1") == Variables()
    assert not house.host.machines
    running = await house.submit("gate go")
    await house.until_running(1)
    house.host.machines[0].kernel.inside.variables_found = FOUND
    assert await look.variables("s1") == FOUND
    house.gates["go"].set()
    await running.answer()
    assert await look.variables("s1") == FOUND
    await house.host.machines[0].aclose()
    await soon()
    assert await look.variables("s1") == Variables()


@pytest.mark.gen_test
async def test_what_is_not_there(house: House) -> None:
    """Unknown sessions and executions are told as such, those of other sessions too."""
    await house.create()
    await house.create("s2")
    look = insights(house, "stack", "variables")
    running = await house.submit("gate go")
    for wrong, ask in (
        (SessionNotFound, look.variables("s3")),
        (SessionNotFound, look.stack("s3", running.id)),
        (ExecutionNotFound, look.stack("s2", running.id)),
        (ExecutionNotFound, look.stack("s1", "exec-0")),
    ):
        with pytest.raises(wrong):
            await ask
    house.gates["go"].set()
    await running.answer()


@pytest.mark.gen_test
async def test_language_that_cannot(house: House) -> None:
    """A language whose kernelspec does not name the capability is refused in words."""
    await house.create()
    running = await house.submit("gate go")
    await house.until_running(1)
    with pytest.raises(NotSupported, match="alpha cannot tell its stack"):
        await insights(house).stack("s1", running.id)
    with pytest.raises(NotSupported, match="alpha cannot tell its variables"):
        await insights(house).variables("s1")
    house.gates["go"].set()
    await running.answer()

"""How a kernel's end is told: in its run, after all of its output, or as late output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from era_kernels.models import Ending, Finished, Output, Reason, Stderr, Stdout
from tests.kernels.scripted import Message, ScriptedKernel, Stage, staged

WORDS = "free(): invalid pointer\n"


def silent(other: ScriptedKernel, request: Message) -> None:
    """Says something, but never ends."""
    other.out(request, "before")


def well(other: ScriptedKernel, request: Message) -> None:
    other.end(request)


@pytest.fixture
def on_stage(tmp_path: Path) -> Callable[..., None]:
    """Plays `act` with a kernel that answers by `script`."""

    def play(script: Any, act: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        async def body() -> None:
            async with asyncio.timeout(30), staged(tmp_path, script) as stage:
                await act(stage)

        asyncio.run(body())

    return play


async def until_heard(stage: Stage) -> None:
    while not stage.kernel.closed.done():
        await asyncio.sleep(0.005)


def test_in_a_run(on_stage: Callable[..., None]) -> None:
    """The last words are the run's, once, after its output; the log has nothing of them."""

    async def act(stage: Stage) -> None:
        stage.keeper.words = "of the time before the run"
        running = asyncio.create_task(stage.run())
        while not stage.other.requests:
            await asyncio.sleep(0.005)
        stage.keeper.words = WORDS
        stage.keeper.end(Ending(signal=6))
        *outputs, finished = await running
        assert outputs[0] == Stdout("before")
        assert outputs[1:] == [Stderr(WORDS)]
        assert finished == Finished(134, state="lost", ending=Ending(signal=6))
        await until_heard(stage)
        assert stage.late == []

    on_stage(silent, act)


@pytest.mark.parametrize("reason", list(Reason))
def test_on_order(on_stage: Callable[..., None], reason: Reason) -> None:
    """A kernel that is ended on purpose has no last words, in a run or between runs."""

    async def act(stage: Stage) -> None:
        running = asyncio.create_task(stage.run())
        while not stage.other.requests:
            await asyncio.sleep(0.005)
        stage.keeper.words = WORDS
        stage.keeper.end(Ending(reason=reason))
        items = await running
        assert not any(isinstance(item, Stderr) for item in items)
        await until_heard(stage)
        assert stage.late == []

    on_stage(silent, act)


ENDINGS = [
    (Ending(code=3), "exit 3"),
    (Ending(signal=11), "signal 11 (SIGSEGV)"),
    (Ending(signal=9, reason="out of memory at 512 MB"), "out of memory at 512 MB"),
]


@pytest.mark.parametrize("after_a_run", [False, True])
@pytest.mark.parametrize(("ending", "cause"), ENDINGS)
def test_between_runs(
    on_stage: Callable[..., None], ending: Ending, cause: str, after_a_run: bool
) -> None:
    """Late output that is on its way comes first, then the last words and the cause, once."""

    async def act(stage: Stage) -> None:
        if after_a_run:
            await stage.run()
        stage.keeper.words = WORDS
        stage.other.publish("stream", {"name": "stdout", "text": "bye"}, None)
        stage.keeper.end(ending)
        await until_heard(stage)
        told: list[Output] = [
            Stdout("bye"),
            Stderr(f"{WORDS}The kernel's process ended: {cause}.\n"),
        ]
        assert stage.late == told
        assert await stage.run() == [Finished(ending.exit_code, state="lost", ending=ending)]
        await asyncio.sleep(0.1)
        assert stage.late == told

    on_stage(well, act)


@pytest.mark.parametrize("reason", list(Reason))
def test_on_order_between_runs(on_stage: Callable[..., None], reason: Reason) -> None:
    """Nothing is told, and the connection is closed at once."""

    async def act(stage: Stage) -> None:
        await stage.run()
        stage.keeper.end(Ending(reason=reason))
        await asyncio.sleep(0)
        assert stage.kernel.closed.done()
        assert stage.late == []

    on_stage(well, act)


def test_child_that_goes_on_talking(on_stage: Callable[..., None]) -> None:
    """Somebody who holds the socket cannot keep the end from being told."""

    async def act(stage: Stage) -> None:
        stage.keeper.end(Ending(code=1))
        async with asyncio.timeout(5):
            while not stage.kernel.closed.done():
                stage.other.publish("stream", {"name": "stdout", "text": "x"}, None)
                await asyncio.sleep(0.01)
        assert stage.late[-1] == Stderr("The kernel's process ended: exit 1.\n")

    on_stage(well, act)

"""Kernels that owe the end of a run although no code of the program runs, and kernels that do not.

The scripted kernel answers the questions of the watch as each test says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from era_kernels.kernels import answer_watch
from era_kernels.kernels.active_run import MAX_PENDING_BYTES, NOT_ANSWERING
from era_kernels.models import EndReason, ExecutionEnd, ExitInfo, Stdout
from tests.kernels.scripted_kernel import (
    SHORT_TIMEOUTS,
    JupyterMessage,
    Script,
    ScriptedKernel,
    make_request,
    open_harness,
)
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)

LONG_TIMEOUTS = replace(SHORT_TIMEOUTS, run_end=20.0)  # no timer but the watch ends these runs
OWED = ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=NOT_ANSWERING))
IDLE, BUSY = {"is_program_running": False}, {"is_program_running": True}
USUAL_INTERVAL = answer_watch.ASK_INTERVAL
SHORT_INTERVAL = 0.1  # seconds between two questions, where none is measured
DEADLINE = 1.5  # seconds; long enough for more questions than it takes


@pytest.fixture(autouse=True)
def ask_soon(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Questions come sooner than usual, except where a test measures them."""
    if request.node.get_closest_marker("alone") is None:
        monkeypatch.setattr(answer_watch, "ASK_INTERVAL", SHORT_INTERVAL)


def say_nothing(scripted: ScriptedKernel, request: JupyterMessage) -> None:
    """Owes the run's end."""


class Answers:
    """Answers the questions one after the other, and from the first again."""

    def __init__(self, *answers: JupyterMessage | None) -> None:
        self._answers = answers
        self.asked_at: list[float] = []

    def __call__(self, scripted: ScriptedKernel, request: JupyterMessage) -> None:
        if request["msg_type"] == "activity_request":
            answer = self._answers[len(self.asked_at) % len(self._answers)]
            self.asked_at.append(time.monotonic())
            if answer is not None:
                scripted.reply_on_control(request, answer)


def tasks_and_timers() -> tuple[int, int]:
    """Returns how many questions and timers of watches there are on the loop."""
    loop = asyncio.get_running_loop()
    tasks = [task for task in asyncio.all_tasks() if "_ask_and_wait" in repr(task)]
    timers = [
        timer
        for timer in loop._scheduled  # type: ignore[attr-defined]
        if "AnswerWatch" in repr(timer) and not timer.cancelled()
    ]
    return len(tasks), len(timers)


# ---------------------------------------------------------------- kernels that owe


@pytest.mark.alone  # it measures
async def test_run_of_a_kernel_that_owes_ends(tmp_path: Path) -> None:
    """Three times no and nothing else: within 2 s the machine is closed, and the run tells why."""
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = answers = Answers(IDLE)
        began = time.monotonic()
        assert await harness.run() == [OWED]
        assert time.monotonic() - began < 2
        assert len(answers.asked_at) in (3, 4)  # the end of the start may still have been sent
        assert harness.machine.ended.result() == ExitInfo(reason=NOT_ANSWERING)
        await asyncio.wait_for(harness.kernel.closed, 5)
        assert harness.machine.signals == []
        assert tasks_and_timers() == (0, 0)


async def test_output_before_the_end_is_not_lost(tmp_path: Path) -> None:
    """What the program printed is in the run, and costs one question more."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "printed")

    async with open_harness(tmp_path, script, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = answers = Answers(IDLE)
        assert await harness.run() == [Stdout("printed"), OWED]
        assert len(answers.asked_at) == 4


async def test_each_run_is_watched(tmp_path: Path) -> None:
    """Answers to an earlier run do not count; the next run of the same kernel is asked anew."""

    def end_run(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        first(scripted, request)
        if len(first.asked_at) == 2:
            scripted.finish_run(scripted.requests[0])

    first, second = Answers(IDLE), Answers(IDLE)
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = end_run
        assert await harness.run() == [ExecutionEnd(0)]
        assert tasks_and_timers() == (0, 0)
        harness.scripted.on_control = second
        assert await harness.run(number=2) == [OWED]
        assert len(first.asked_at) == 2
        assert len(second.asked_at) in (3, 4)


# ---------------------------------------------------------------- kernels that do not


@pytest.mark.parametrize(
    "answers",
    [
        [BUSY],
        [IDLE, IDLE, BUSY],
        [{}],
        [{"is_program_running": 0}],
        [{"is_program_running": None}],
        [{"is_program_running": "False"}],
        [{"is_program_running": []}],
        [{"is_program_runnin": False}],
        [{"status": "error"}],
    ],
)
async def test_left_alone(tmp_path: Path, answers: Sequence[JupyterMessage]) -> None:
    """A program that runs, and an answer that says nothing: the deadline alone ends the run."""
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = given = Answers(*answers)
        [end] = await harness.run(timeout=DEADLINE)
        assert isinstance(end, ExecutionEnd)
        assert (end.exit_code, end.timed_out) == (124, True)
        assert len(given.asked_at) >= 4
        assert harness.machine.ended.result().reason == EndReason.TIMEOUT


async def test_kernel_that_does_not_answer_is_left_alone(tmp_path: Path) -> None:
    """It is asked once, and not again while that question waits; the deadline ends the run."""
    answers = Answers(None)
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = answers
        [end] = await harness.run(timeout=DEADLINE)
        assert isinstance(end, ExecutionEnd)
        assert end.timed_out
        assert len(answers.asked_at) == 1
        assert tasks_and_timers() == (0, 0)


async def test_question_without_an_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that does not come is waited for in vain, and one that comes late is ignored."""
    monkeypatch.setattr(answer_watch, "ANSWER_TIMEOUT", 0.1)
    asked: list[JupyterMessage] = []

    def note_question(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        if request["msg_type"] == "activity_request":
            asked.append(request)

    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = note_question
        running = asyncio.create_task(harness.run())
        await until(lambda: len(asked) >= 3)
        for _ in range(5):
            harness.scripted.reply_on_control(asked[0], IDLE)
        await asyncio.sleep(0.2)
        harness.scripted.finish_run(harness.scripted.requests[0])
        assert await running == [ExecutionEnd(0)]
        assert tasks_and_timers() == (0, 0)


async def test_output_shows_that_something_goes_on(tmp_path: Path) -> None:
    """A kernel that still sends is left alone, whatever it says of itself."""

    def print_and_answer(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        if request["msg_type"] == "activity_request":
            answers(scripted, request)
            scripted.publish_stream(scripted.requests[0], ".")
            if len(answers.asked_at) == 6:
                scripted.finish_run(scripted.requests[0])

    answers = Answers(IDLE)
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = print_and_answer
        *outputs, end = await harness.run()
        assert "".join(one.content for one in outputs if isinstance(one, Stdout)) == "......"
        assert end == ExecutionEnd(0)


async def test_output_that_waits_to_be_read(tmp_path: Path) -> None:
    """While a slow consumer keeps the server from reading, silence says nothing."""
    text = "x" * (MAX_PENDING_BYTES // 2)

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        for _ in range(20):
            scripted.publish_stream(request, text)

    async with open_harness(tmp_path, script, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = answers = Answers(IDLE)
        length = 0
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                if not length:
                    await until(lambda: len(answers.asked_at) > 4)
                    harness.scripted.finish_run(harness.scripted.requests[0])
                for item in batch:
                    if isinstance(item, Stdout):
                        length += len(item.content)
        assert batch[-1] == ExecutionEnd(0)
        assert length == 20 * len(text)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (ScriptedKernel.send_reply, ScriptedKernel.publish_fence),
        (ScriptedKernel.publish_fence, ScriptedKernel.send_reply),
    ],
)
async def test_half_an_end_is_left_to_the_other_timers(
    tmp_path: Path, first: Script, last: Script
) -> None:
    """After reply or fence no question is asked; the other may take its time."""

    def end_by_half(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        answers(scripted, request)
        if len(answers.asked_at) == 2:
            first(scripted, scripted.requests[0])

    answers = Answers(IDLE)
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = end_by_half
        running = asyncio.create_task(harness.run())
        await asyncio.sleep(0.8)
        assert 2 <= len(answers.asked_at) <= 3  # control may overtake the others
        assert tasks_and_timers() == (0, 0)
        last(harness.scripted, harness.scripted.requests[0])
        assert await running == [ExecutionEnd(0)]


async def test_quick_run_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that end soon cost no question, however many follow each other."""
    monkeypatch.setattr(answer_watch, "ASK_INTERVAL", USUAL_INTERVAL)
    async with open_harness(
        tmp_path, lambda scripted, request: scripted.finish_run(request), LONG_TIMEOUTS
    ) as harness:
        for number in range(1, 30):
            assert await harness.run(number=number) == [ExecutionEnd(0)]
        assert tasks_and_timers() == (0, 0)
        await asyncio.sleep(2 * USUAL_INTERVAL)
        assert "activity_request" not in harness.scripted.request_types


# ---------------------------------------------------------------- nothing is left


@pytest.mark.parametrize("how", ["exits", "is closed", "is closed and nobody waits"])
async def test_end_during_a_question(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel that ends while it is asked leaves no task, no timer and no complaint."""
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = answers = Answers(None)
        running = asyncio.create_task(harness.run())
        await until(lambda: answers.asked_at)
        assert tasks_and_timers() == (1, 0)
        if how.startswith("is closed"):
            await harness.machine.aclose()
        else:
            harness.machine.end(ExitInfo(code=3))
        if how == "is closed and nobody waits":
            running.cancel()
            await asyncio.wait([running])
        else:
            assert (await running)[-1].exit_code in (3, 137)  # type: ignore[union-attr]
        await asyncio.sleep(0.05)
        assert tasks_and_timers() == (0, 0)
    assert caplog.records == []


async def test_abandoned_run_is_watched(tmp_path: Path) -> None:
    """Nobody waits for its output, but the next run waits for its end."""
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        running = asyncio.create_task(harness.run())
        await until(lambda: harness.scripted.requests)
        running.cancel()
        await asyncio.wait([running])
        harness.scripted.on_control = Answers(IDLE)
        assert await harness.run(number=2) == [OWED]
        assert len(harness.scripted.requests) == 1


async def test_long_code_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that receives and compiles long code is asked later: nothing of it runs yet."""
    monkeypatch.setattr(answer_watch, "CODE_PATIENCE", 1e-5)
    async with open_harness(tmp_path, say_nothing, LONG_TIMEOUTS) as harness:
        harness.scripted.on_control = answers = Answers(IDLE)
        began = time.monotonic()
        assert await harness.run(code="#" * 100_000) == [OWED]
        assert answers.asked_at[0] - began >= 1

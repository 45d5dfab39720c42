"""What a kernel is asked beside its runs, against ones that answer, lie and are silent."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from era_kernels.errors import KernelSilent
from era_kernels.kernels import inside
from era_kernels.kernels.questions import TOLD, Questions
from era_kernels.kernels.wire import Message as WireMessage
from era_kernels.models import Frame, InputRequest, JsonObject, Stdout, Variable, Variables
from tests.kernels.scripted import Message, ScriptedKernel, Stage, a_request, staged

pytestmark = pytest.mark.timeout(30)

FRAME = {"file": "<cell 1>", "line": 1, "function": "f", "source": "f()"}


def play(
    directory: Path,
    script: Callable[[ScriptedKernel, Message], None],
    act: Callable[[Stage], Awaitable[None]],
) -> None:
    async def body() -> None:
        async with staged(directory, script) as stage:
            await act(stage)

    asyncio.run(body())


def idle(other: ScriptedKernel, request: Message) -> None:
    """Runs nothing."""


def test_answers(tmp_path: Path) -> None:
    """The stack and the variables are what the kernel says, once it is checked."""

    def answer(other: ScriptedKernel, request: Message) -> None:
        other.tell(request, {"frames": [FRAME, 5], "variables": [{"name": "a", "type": "b"}]})

    async def act(stage: Stage) -> None:
        stage.other.on_control = answer
        assert await stage.kernel.inside.stack() == [Frame("<cell 1>", 1, "f", "f()")]
        found = await stage.kernel.inside.variables()
        assert found == Variables((Variable("a", "b"),), truncated=True)
        assert stage.other.asked[-2:] == ["stack_request", "variables_request"]

    play(tmp_path, idle, act)


def test_silent_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not answer is told so, in time; the next question is asked again."""
    monkeypatch.setattr(inside, "STACK", 0.1)
    monkeypatch.setattr(inside, "VARIABLES", 0.1)
    monkeypatch.setattr(inside, "DUMP", 0.1)

    async def act(stage: Stage) -> None:
        for ask in (stage.kernel.inside.stack, stage.kernel.inside.variables):
            for _ in range(2):
                with pytest.raises(KernelSilent) as told:
                    await ask()
                assert told.value.retry_after
        assert stage.keeper.signals == []  # the kernelspec names none

    play(tmp_path, idle, act)


def test_callers_share_a_question(tmp_path: Path) -> None:
    """A thousand callers at once cost the kernel one request; one that leaves spoils nothing."""

    async def act(stage: Stage) -> None:
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()
        asked: list[Message] = []

        def later(other: ScriptedKernel, request: Message) -> None:
            asked.append(request)
            loop.call_soon_threadsafe(answered.set)

        stage.other.on_control = later
        callers = [asyncio.create_task(stage.kernel.inside.stack()) for _ in range(1000)]
        await answered.wait()
        callers.pop().cancel()
        stage.other.tell(asked[0], {"frames": [FRAME]})
        found = await asyncio.gather(*callers)
        assert all(len(frames) == 1 for frames in found)
        assert len(asked) == 1

    play(tmp_path, idle, act)


def test_end_of_the_kernel_ends_waiting(tmp_path: Path) -> None:
    """Who waits for an answer is told at once that there will be none."""

    async def act(stage: Stage) -> None:
        caller = asyncio.create_task(stage.kernel.inside.variables())
        await asyncio.sleep(0.05)
        await stage.keeper.aclose()
        with pytest.raises(KernelSilent):
            await asyncio.wait_for(caller, 1)

    play(tmp_path, idle, act)


def test_stuck_kernel_is_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose kernelspec names a signal writes its stack itself."""
    monkeypatch.setattr(inside, "STACK", 0.1)
    file = tmp_path / "dump"

    async def on_signal(number: int) -> None:
        assert number == signal.SIGURG
        file.write_text('S (most recent call first):\n  File "<cell 1>", line 1 in f\n')

    async def body() -> None:
        questions = Questions(lambda kind, content: "id")
        look = inside.Inside(questions, on_signal, file, signal.SIGURG)
        look.runs(a_request())
        assert await look.stack() == [Frame("<cell 1>", 1, "f", "code")]

    asyncio.run(body())


def test_late_answer_wins_over_a_signal_without_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that comes back while it is signalled is heard."""
    monkeypatch.setattr(inside, "STACK", 0.1)

    async def body() -> None:
        questions = Questions(lambda kind, content: "id")

        async def on_signal(number: int) -> None:
            content: JsonObject = {"frames": [FRAME]}
            questions.on_message(WireMessage("stack_reply", "id", content, 100))

        look = inside.Inside(questions, on_signal, tmp_path / "dump", signal.SIGURG)
        assert await look.stack() == [Frame("<cell 1>", 1, "f", "f()")]

    asyncio.run(body())


def test_foreign_answers_are_none() -> None:
    """An answer to another question is as if it had not come."""

    async def body() -> None:
        questions = Questions(lambda kind, content: "id")
        caller = asyncio.create_task(questions.ask("stack_request", {}, 0.2))
        await asyncio.sleep(0)
        questions.on_message(WireMessage("stack_reply", "other", {}, 1))
        questions.on_message(WireMessage("stack_reply", "", {}, 1))
        with pytest.raises(KernelSilent):
            await caller

    asyncio.run(body())


# ---------------------------------------------------------------- input


def asks(other: ScriptedKernel, request: Message) -> None:
    """Prints, asks, and ends when it has its answer."""

    def end(kernel: ScriptedKernel, reply: Message) -> None:
        content = reply["content"]
        kernel.tell(reply, {"taken": content["key"] == "k"})
        kernel.out(request, str(content.get("value")))
        kernel.end(request)

    other.on_control = end
    other.out(request, "before")
    other.publish("input_request", {"prompt": "? ", "key": "k"}, request)


def test_input_is_asked_in_order(tmp_path: Path) -> None:
    """A request for input comes after what was printed before it; its answer is handed on."""

    async def act(stage: Stage) -> None:
        heard = []
        async with aclosing(stage.kernel.execute(a_request())) as batches:
            async for batch in batches:
                for item in batch:
                    heard.append(item)
                    if isinstance(item, InputRequest):
                        assert await stage.kernel.inside.give_input(item.key, "line")
        assert heard[:-1] == [Stdout("before"), InputRequest("? ", False, "k"), Stdout("line")]

    play(tmp_path, asks, act)


def test_refused_input_has_no_value(tmp_path: Path) -> None:
    """That there is nobody is told by an answer without a value."""

    async def act(stage: Stage) -> None:
        heard = []
        async with aclosing(stage.kernel.execute(a_request())) as batches:
            async for batch in batches:
                heard += batch
                for item in batch:
                    if isinstance(item, InputRequest):
                        stage.kernel.inside.refuse_input(item.key)
        assert Stdout("None") in heard

    play(tmp_path, asks, act)


def test_answer_that_is_not_taken(tmp_path: Path) -> None:
    """A kernel tells when a question does not wait any more; one that is silent has the answer."""

    def refuse(other: ScriptedKernel, request: Message) -> None:
        other.tell(request, {"taken": False})

    async def act(stage: Stage) -> None:
        stage.other.on_control = refuse
        assert not await stage.kernel.inside.give_input("k", "line")

    play(tmp_path, idle, act)


def test_silent_kernel_has_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent to a kernel that is busy is taken for given."""
    monkeypatch.setattr(inside, "INPUT", 0.1)

    async def act(stage: Stage) -> None:
        assert await stage.kernel.inside.give_input("k", "line")

    play(tmp_path, idle, act)


@pytest.mark.parametrize("answers", [True, False])
def test_forged_requests_outside_of_a_run(tmp_path: Path, answers: bool) -> None:
    """Requests that belong to no run are refused at once, ten thousand of them like one.

    A kernel that does not say that it has read the refusals is not sent any number of them.
    """

    def acknowledge(other: ScriptedKernel, request: Message) -> None:
        other.tell(request, {"taken": False})

    async def act(stage: Stage) -> None:
        if answers:
            stage.other.on_control = acknowledge
        for n in range(10_000):
            stage.other.publish("input_request", {"prompt": "x", "key": str(n)}, None)
        async with asyncio.timeout(20):
            while stage.other.asked.count("input_reply") < TOLD:
                await asyncio.sleep(0.01)
        assert stage.late == []
        stage.other.script = lambda other, request: other.end(request)
        assert len(await stage.run()) == 1
        if not answers:
            assert stage.other.asked.count("input_reply") == TOLD

    play(tmp_path, idle, act)

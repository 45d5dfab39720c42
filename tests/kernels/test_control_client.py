"""Control requests to kernels that answer, lie and are silent."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from era_kernels.errors import KernelSilent
from era_kernels.kernels import control_client
from era_kernels.kernels.control_requests import MAX_UNANSWERED, ControlRequests
from era_kernels.kernels.wire_protocol import Message as WireMessage
from era_kernels.models import InputRequest, JsonObject, StackFrame, Stdout, Variable, Variables
from tests.kernels.scripted_kernel import (
    JupyterMessage,
    OpenHarness,
    ScriptedKernel,
    make_request,
)
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)

FRAME = {"file": "<cell 1>", "line": 1, "function": "f", "source": "f()"}


def does_nothing(scripted: ScriptedKernel, request: JupyterMessage) -> None:
    """Runs nothing."""


async def test_answers(run_in_harness: OpenHarness) -> None:
    """The stack and the variables are what the kernel says, once it is checked."""

    def answer(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.reply_on_control(
            request, {"frames": [FRAME, 5], "variables": [{"name": "a", "type": "b"}]}
        )

    async with run_in_harness(does_nothing) as harness:
        harness.scripted.on_control = answer
        assert await harness.kernel.control.stack() == [StackFrame("<cell 1>", 1, "f", "f()")]
        found = await harness.kernel.control.variables()
        assert found == Variables((Variable("a", "b"),), truncated=True)
        assert harness.scripted.request_types[-2:] == ["stack_request", "variables_request"]


async def test_silent_kernel(run_in_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not answer in time is reported; the next request is sent again."""
    monkeypatch.setattr(control_client, "STACK_TIMEOUT", 0.1)
    monkeypatch.setattr(control_client, "VARIABLES_TIMEOUT", 0.1)
    monkeypatch.setattr(control_client, "DUMP_TIMEOUT", 0.1)

    async with run_in_harness(does_nothing) as harness:
        for ask in (harness.kernel.control.stack, harness.kernel.control.variables):
            for _ in range(2):
                with pytest.raises(KernelSilent) as caught:
                    await ask()
                assert caught.value.retry_after
        assert harness.machine.signals == []  # the kernelspec names none


async def test_callers_share_a_question(run_in_harness: OpenHarness) -> None:
    """A thousand callers at once cost the kernel one request; one that leaves spoils nothing."""
    async with run_in_harness(does_nothing) as harness:
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()
        asked: list[JupyterMessage] = []

        def later(scripted: ScriptedKernel, request: JupyterMessage) -> None:
            asked.append(request)
            loop.call_soon_threadsafe(answered.set)

        harness.scripted.on_control = later
        callers = [asyncio.create_task(harness.kernel.control.stack()) for _ in range(1000)]
        await answered.wait()
        callers.pop().cancel()
        harness.scripted.reply_on_control(asked[0], {"frames": [FRAME]})
        found = await asyncio.gather(*callers)
        assert all(len(frames) == 1 for frames in found)
        assert len(asked) == 1


async def test_end_of_the_kernel_ends_waiting(run_in_harness: OpenHarness) -> None:
    """A caller that waits for a reply learns at once that there will be none."""
    async with run_in_harness(does_nothing) as harness:
        caller = asyncio.create_task(harness.kernel.control.variables())
        await asyncio.sleep(0.05)
        await harness.machine.aclose()
        with pytest.raises(KernelSilent):
            await asyncio.wait_for(caller, 1)


async def test_stuck_kernel_is_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose kernelspec names a signal writes its stack itself."""
    monkeypatch.setattr(control_client, "STACK_TIMEOUT", 0.1)
    file = tmp_path / "dump"

    async def on_signal(number: int) -> None:
        assert number == signal.SIGURG
        file.write_text('S (most recent call first):\n  File "<cell 1>", line 1 in f\n')

    control_requests = ControlRequests(lambda kind, content: "id")
    client = control_client.ControlClient(control_requests, on_signal, file, signal.SIGURG)
    client.set_request(make_request())
    assert await client.stack() == [StackFrame("<cell 1>", 1, "f", "code")]


async def test_late_answer_wins_over_a_signal_without_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that comes back while it is signalled is heard."""
    monkeypatch.setattr(control_client, "STACK_TIMEOUT", 0.1)

    control_requests = ControlRequests(lambda kind, content: "id")

    async def on_signal(number: int) -> None:
        content: JsonObject = {"frames": [FRAME]}
        control_requests.on_message(WireMessage("stack_reply", "id", content, 100))

    client = control_client.ControlClient(
        control_requests, on_signal, tmp_path / "dump", signal.SIGURG
    )
    assert await client.stack() == [StackFrame("<cell 1>", 1, "f", "f()")]


async def test_foreign_answers_are_none() -> None:
    """A reply to another request is ignored."""
    control_requests = ControlRequests(lambda kind, content: "id")
    caller = asyncio.create_task(control_requests.request("stack_request", {}, 0.2))
    await asyncio.sleep(0)
    control_requests.on_message(WireMessage("stack_reply", "other", {}, 1))
    control_requests.on_message(WireMessage("stack_reply", "", {}, 1))
    with pytest.raises(KernelSilent):
        await caller


# ---------------------------------------------------------------- input


def asks(scripted: ScriptedKernel, request: JupyterMessage) -> None:
    """Prints, asks, and ends when it has its answer."""

    def end(kernel: ScriptedKernel, reply: JupyterMessage) -> None:
        content = reply["content"]
        kernel.reply_on_control(reply, {"taken": content["key"] == "k"})
        kernel.publish_stream(request, str(content.get("value")))
        kernel.finish_run(request)

    scripted.on_control = end
    scripted.publish_stream(request, "before")
    scripted.publish("input_request", {"prompt": "? ", "key": "k"}, request)


async def test_input_is_asked_in_order(run_in_harness: OpenHarness) -> None:
    """A request for input comes after what was printed before it; its answer is handed on."""
    async with run_in_harness(asks) as harness:
        heard = []
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                for item in batch:
                    heard.append(item)
                    if isinstance(item, InputRequest):
                        assert await harness.kernel.control.send_input(item.key, "line")
        assert heard[:-1] == [Stdout("before"), InputRequest("? ", False, "k"), Stdout("line")]


async def test_refused_input_has_no_value(run_in_harness: OpenHarness) -> None:
    """The end of input is sent as an answer without a value."""
    async with run_in_harness(asks) as harness:
        heard = []
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                heard += batch
                for item in batch:
                    if isinstance(item, InputRequest):
                        harness.kernel.control.send_eof(item.key)
        assert Stdout("None") in heard


async def test_answer_that_is_not_taken(run_in_harness: OpenHarness) -> None:
    """A kernel says when a request for input does not wait any more."""

    def refuse(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.reply_on_control(request, {"taken": False})

    async with run_in_harness(does_nothing) as harness:
        harness.scripted.on_control = refuse
        assert not await harness.kernel.control.send_input("k", "line")


async def test_silent_kernel_has_the_answer(
    run_in_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was sent to a busy kernel counts as given."""
    monkeypatch.setattr(control_client, "INPUT_TIMEOUT", 0.1)

    async with run_in_harness(does_nothing) as harness:
        assert await harness.kernel.control.send_input("k", "line")


@pytest.mark.parametrize("answers", [True, False])
async def test_forged_requests_outside_of_a_run(run_in_harness: OpenHarness, answers: bool) -> None:
    """Requests that belong to no run are refused at once, ten thousand of them like one.

    A kernel that does not say that it has read the refusals is not sent any number of them.
    """

    def acknowledge(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.reply_on_control(request, {"taken": False})

    async with run_in_harness(does_nothing) as harness:
        if answers:
            harness.scripted.on_control = acknowledge
        for n in range(10_000):
            harness.scripted.publish("input_request", {"prompt": "x", "key": str(n)}, None)
        await until(lambda: harness.scripted.request_types.count("input_reply") >= MAX_UNANSWERED)
        assert harness.late_output == []
        harness.scripted.script = lambda scripted, request: scripted.finish_run(request)
        assert len(await harness.run()) == 1
        if not answers:
            assert harness.scripted.request_types.count("input_reply") == MAX_UNANSWERED

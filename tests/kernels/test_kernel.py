"""The server's side of a kernel, against kernels that behave well and badly."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed
from era_kernels.json_incremental import iterencode
from era_kernels.kernels import zmtp
from era_kernels.kernels.active_run import MAX_PENDING_BYTES, NOT_ANSWERING, KernelTimeouts
from era_kernels.kernels.channel_connection import PROTOCOL_VIOLATION
from era_kernels.kernels.kernel import Kernel
from era_kernels.kernels.wire_protocol import ConnectionInfo
from era_kernels.logs import HumanFormatter, JsonFormatter, extra_fields
from era_kernels.models import (
    Display,
    EndReason,
    ExceptionInfo,
    ExecutionEnd,
    ExitInfo,
    InterruptStep,
    KernelRequest,
    Output,
    Result,
    Stderr,
    Stdout,
)
from tests.kernels.scripted_kernel import (
    FakeMachineHandle,
    JupyterMessage,
    KernelHarness,
    OpenHarness,
    Script,
    ScriptedKernel,
    make_request,
)
from tests.waiting import until

pytestmark = [pytest.mark.timeout(30), pytest.mark.timed]  # short timeouts

# The end of a run whose kernel owed it.
OWED = ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=NOT_ANSWERING))


def well_behaved(scripted: ScriptedKernel, request: JupyterMessage) -> None:
    scripted.publish_stream(request, "a\n")
    scripted.finish_run(request)


# ---------------------------------------------------------------- runs that end


async def test_run_is_output_and_then_finished(run_in_harness: OpenHarness) -> None:
    """A run yields its output in order and at last how it ended; neighbours are one text."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "a\n")
        scripted.publish_stream(request, "b\n")
        scripted.publish_stream(request, "oh\n", "stderr")
        scripted.publish("execute_result", {"data": {"text/plain": "3"}, "metadata": {}}, request)
        scripted.finish_run(request, 3)

    async with run_in_harness(script) as harness:
        *outputs, finished = await harness.run()
        text = "".join(item.content for item in outputs if isinstance(item, Stdout))
        assert text == "a\nb\n"
        assert outputs[-2:] == [Stderr("oh\n"), Result({"text/plain": "3"})]
        assert finished == ExecutionEnd(3)


async def test_request_carries_everything_in_its_metadata(run_in_harness: OpenHarness) -> None:
    """One execute_request has the code, and environment, number and nonce beside it as data."""
    async with run_in_harness(well_behaved) as harness:
        await harness.run(number=7)
        request = harness.scripted.requests[0]
        assert request["content"]["code"] == "code"
        assert request["content"]["allow_stdin"] is False
        era = request["metadata"]["era"]
        assert (era["number"], era["env"]) == (7, {"NAME": "value"})
        assert len(era["nonce"]) == 32


async def test_reply_before_fence_waits_for_the_output(run_in_harness: OpenHarness) -> None:
    """Output between an early reply and the fence belongs to the run."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request)
        threading.Event().wait(0.1)
        scripted.publish_stream(request, "after the reply")
        scripted.publish_fence(request)

    async with run_in_harness(script) as harness:
        assert await harness.run() == [Stdout("after the reply"), ExecutionEnd(0)]


async def test_fence_before_reply_waits_for_the_reply(run_in_harness: OpenHarness) -> None:
    """The reply tells the exit code and the exception, however late it comes."""
    exception = {"name": "E", "value": "v", "traceback": ["l"]}

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_fence(request)
        threading.Event().wait(0.1)
        scripted.send_reply(request, 1, exception=exception)

    async with run_in_harness(script) as harness:
        assert await harness.run() == [ExecutionEnd(1, ExceptionInfo("E", "v", ["l"]))]


async def test_runs_follow_each_other(run_in_harness: OpenHarness) -> None:
    """A kernel serves one run after the other without leftovers."""
    async with run_in_harness(well_behaved) as harness:
        for _ in range(50):
            assert await harness.run() == [Stdout("a\n"), ExecutionEnd(0)]
        assert harness.late_output == []


# ---------------------------------------------------------------- kernels that break the protocol


@pytest.mark.parametrize("half", [ScriptedKernel.send_reply, ScriptedKernel.publish_fence])
async def test_half_an_end_ends_the_machine(run_in_harness: OpenHarness, half: Script) -> None:
    """What is missing, fence or reply, is waited for; then the run is lost with its machine."""
    async with run_in_harness(half) as harness:
        assert await harness.run() == [OWED]


async def test_output_after_the_reply_extends_the_wait(run_in_harness: OpenHarness) -> None:
    """As long as output of the run arrives, its fence may stay away."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request)
        for _ in range(6):
            threading.Event().wait(0.15)
            scripted.publish_stream(request, ".")
        scripted.publish_fence(request)

    async with run_in_harness(script) as harness:
        *outputs, finished = await harness.run()
        assert "".join(item.content for item in outputs if isinstance(item, Stdout)) == "......"
        assert finished == ExecutionEnd(0)


async def test_late_output_after_the_reply_extends_the_wait(run_in_harness: OpenHarness) -> None:
    """As long as output of earlier runs arrives, the fence behind it may stay away; no longer."""
    over = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request)
        for _ in range(6):
            threading.Event().wait(0.15)
            scripted.publish("stream", {"name": "stdout", "text": "late"}, None)
        if len(scripted.requests) == 1:
            scripted.publish_fence(request)
        over.wait(10)

    async with run_in_harness(script) as harness:
        run = asyncio.create_task(harness.run())
        try:
            assert await asyncio.wait_for(run, 10) == [ExecutionEnd(0)]
            assert harness.late_output == [Stdout("late")] * 6
        finally:
            over.set()
        (finished,) = await asyncio.wait_for(harness.run(), 10)
        assert finished == OWED


async def test_output_after_the_reply_does_not_go_on_for_ever(run_in_harness: OpenHarness) -> None:
    """Code that forges its reply and goes on to print escapes the deadline, but not the bound."""
    over = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request)
        while not over.wait(0.1):
            scripted.publish_stream(request, ".")

    async with run_in_harness(script, KernelTimeouts(run_end=1, max_run_end=1.5)) as harness:
        try:
            finished = (await asyncio.wait_for(harness.run(timeout=0.2), 10))[-1]
        finally:
            over.set()
        assert finished == OWED


async def test_dropped_messages_ahead_of_the_fence(run_in_harness: OpenHarness) -> None:
    """The fence may be behind messages that are none, for however long these come."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request)
        for _ in range(12):
            threading.Event().wait(0.1)
            scripted.publish_raw([b"no message"])
        scripted.publish_fence(request)

    async with run_in_harness(script, KernelTimeouts(run_end=0.4)) as harness:
        assert await asyncio.wait_for(harness.run(), 10) == [ExecutionEnd(0)]


async def test_repeated_fence_is_no_sign_of_life(run_in_harness: OpenHarness) -> None:
    """Code that sends its fence again and again does not put the end of its run off."""
    over = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        while not over.wait(0.1):
            scripted.publish_fence(request)

    async with run_in_harness(script) as harness:
        try:
            (finished,) = await asyncio.wait_for(harness.run(timeout=0.2), 10)
        finally:
            over.set()
        assert finished == OWED


async def test_slow_consumer_is_not_a_missing_fence(run_in_harness: OpenHarness) -> None:
    """While the consumer keeps the kernel from being read, no fence is missed."""
    line = "x" * 65536

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        for _ in range(64):
            scripted.publish_stream(request, line)
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        total = 0
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                total += sum(len(item.content) for item in batch if isinstance(item, Stdout))
                if total < 2 * MAX_PENDING_BYTES:
                    await asyncio.sleep(0.5)
        assert total == 64 * 65536
        assert batch[-1] == ExecutionEnd(0)


async def test_forged_fences_and_replies_are_nobodys(run_in_harness: OpenHarness) -> None:
    """A fence with another nonce, or a reply to another request, ends nothing."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        stranger = {"header": {**request["header"], "msg_id": "other"}}
        scripted.publish_fence(request, "0" * 32)
        scripted.send_reply({**request, **stranger}, 9)
        scripted.send_reply(request, "zero")
        scripted.send_reply(request, True)
        scripted.publish_stream(request, "still here")
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        assert await harness.run() == [Stdout("still here"), ExecutionEnd(0)]


async def test_output_of_other_parents_is_late(run_in_harness: OpenHarness) -> None:
    """Output of an old run, of no run, or of this run after its fence is in no run's output."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        if len(scripted.requests) == 2:
            scripted.publish_stream(scripted.requests[0], "old")
            scripted.publish("stream", {"name": "stderr", "text": "orphan"}, None)
        scripted.finish_run(request)
        scripted.publish_stream(request, "after the fence")

    async with run_in_harness(script) as harness:
        assert await harness.run() == [ExecutionEnd(0)]
        assert await harness.run() == [ExecutionEnd(0)]
        await until(lambda: len(harness.late_output) >= 4)
        late = [Stdout("after the fence"), Stdout("old"), Stderr("orphan")]
        assert harness.late_output[:3] == late


async def test_fault_of_a_kernel_is_logged(
    run_in_harness: OpenHarness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has where the kernel failed, and nothing of the run, which ends as it says."""
    fault = "KeyError at main.py:5 shell.py:7"
    exception = {"name": "E", "value": "secret", "traceback": ["secret"]}

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "secret")
        scripted.publish_fence(request)
        scripted.send_reply(request, 1, fault=fault, exception=exception)

    async with run_in_harness(script) as harness:
        assert (await harness.run())[-1] == ExecutionEnd(
            1, ExceptionInfo("E", "secret", ["secret"])
        )
        [record] = caplog.records
        for _ in range(7):  # code can feign any number
            harness.kernel._channels.count_fault(fault)
    assert len(caplog.records) == 4
    assert (record.levelname, record.getMessage()) == ("ERROR", "a kernel failed in its own code")
    assert extra_fields(record) == {"count": 1, "why": fault}
    for formatter in (HumanFormatter(), JsonFormatter()):
        line = formatter.format(record)
        assert fault in line
        assert "\n" not in line
        assert not any(text in line for text in ("secret", "value", "NAME"))


async def test_broken_messages_are_dropped_and_counted(
    run_in_harness: OpenHarness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing a kernel sends raises or is repeated in a log; the run goes on."""
    deep = b"[" * 100_000 + b"]" * 100_000
    bodies = [b"", b"[]", b"\xff", b"{", deep, b'{"secret": ' + b"9" * 5000 + b"}"]

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        header, parent = (
            b'{"msg_type": "stream"}',
            json.dumps({"msg_id": request["msg_id"]}).encode(),
        )
        for body in bodies:
            scripted.publish_raw([header, parent, b"{}", body])
        for other_header in (b"{}", b'{"msg_type": 5}', b"null"):
            scripted.publish_raw([other_header, parent, b"{}", b"{}"])
        scripted.publish_raw([header, b'{"msg_id": []}', b"{}", b"{}"])
        scripted.publish_raw([header, parent, b"{}", b'{"name": "stdout", "text": 5}'])
        scripted.publish_raw([header, parent, b"{}", b"{}"], is_signed=False)
        scripted.iopub.send_multipart([b"topic"])
        scripted.iopub.send_multipart([b"<IDS|MSG>", b"", b""])
        scripted.publish_stream(request, "fine")
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        assert await harness.run() == [Stdout("fine"), ExecutionEnd(0)]
        assert harness.kernel.dropped_count == len(bodies) + 8
        assert harness.late_output == []
    assert 0 < len(caplog.records) < 6
    assert "secret" not in caplog.text


@pytest.mark.alone  # it measures the longest step of the loop
async def test_long_messages_keep_their_place(run_in_harness: OpenHarness) -> None:
    """What takes long to unpack comes before what was sent after it, and nothing waits for it."""
    big, flat = "\u20ac" * 3_000_000, [1] * 20_000

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        for number in range(3):
            scripted.publish_stream(request, f"{number}")
            data = {"data": {"text/plain": big, "application/json": flat}, "metadata": {}}
            scripted.publish("display_data", data, request)
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        longest, last = 0.0, time.perf_counter()

        async def watch() -> None:
            nonlocal longest, last
            while True:
                await asyncio.sleep(0.001)
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()

        watching = asyncio.create_task(watch())
        found = await harness.run()
        watching.cancel()
        rich = {"text/plain": big, "application/json": flat}
        assert found[::2] == [Stdout("0"), Stdout("1"), Stdout("2"), ExecutionEnd(0)]
        for display in found[1::2]:
            assert isinstance(display, Display)
            assert json.loads(b"".join(iterencode(display.data))) == rich
        assert longest < 1  # seconds; some 10 ms on a quiet host
        assert harness.kernel.dropped_count == 0


async def test_message_that_is_too_long_is_not_received(
    run_in_harness: OpenHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message over the bound ends the kernel, with the reason as text."""
    monkeypatch.setattr(zmtp, "MAX_MESSAGE_BYTES", 2 << 20)

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "x" * (2 << 20))
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        (finished,) = await harness.run()
        reason = f"{PROTOCOL_VIOLATION}: a message has more than 2 MiB"
        assert finished == ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=reason))


async def test_backlog_of_a_slow_consumer_stays_in_the_kernel(run_in_harness: OpenHarness) -> None:
    """Of 32 MiB in a burst, no more than the bound and one message wait on our side at a time."""
    line = "x" * 65536

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        for _ in range(512):
            scripted.publish_stream(request, line)
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        sizes = []
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                sizes.append(sum(len(item.content) for item in batch if isinstance(item, Stdout)))
                await asyncio.sleep(0.02)
        assert sum(sizes) == 512 * 65536
        assert max(sizes) <= MAX_PENDING_BYTES + len(line)


# ---------------------------------------------------------------- programs that end


@pytest.mark.parametrize("ends_program", [True, False])
async def test_request_of_a_whole_program(run_in_harness: OpenHarness, ends_program: bool) -> None:
    """The kernel is told whether the code is a whole program, which nothing follows."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        request = replace(make_request(), ends_program=ends_program)
        assert [batch async for batch in harness.kernel.execute(request)]
        assert harness.scripted.requests[0]["metadata"]["era"]["ends"] is ends_program


async def test_exit_handler_that_hangs(run_in_harness: OpenHarness) -> None:
    """The deadline covers what a program does at its end: the reply comes only after that."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "the last line\n")  # then its exit handler hangs

    async with run_in_harness(script) as harness:
        request = replace(make_request(timeout=0.2), ends_program=True)
        items = [item async for batch in harness.kernel.execute(request) for item in batch]
        assert items[0] == Stdout("the last line\n")
        end = items[-1]
        assert isinstance(end, ExecutionEnd)
        assert (end.exit_code, end.timed_out, end.state) == (124, True, "lost")


# ---------------------------------------------------------------- deadlines and interrupts


async def test_interrupted_in_time_keeps_the_state(run_in_harness: OpenHarness) -> None:
    """A program that stops when interrupted at its deadline has exit code 124 and its state."""
    stopped = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "before")
        stopped.wait(10)
        scripted.finish_run(request, 130)

    async with run_in_harness(script) as harness:
        signals = harness.machine.signals
        harness.machine.signal = _recording(signals, stopped.set)  # type: ignore[method-assign]
        assert await harness.run(timeout=0.2) == [
            Stdout("before"),
            ExecutionEnd(124, timed_out=True),
        ]
        assert signals == [signal.SIGINT]
        assert not harness.machine.ended.done()


def _recording(signals: list[int], then: Callable[[], None]) -> Callable[[int], Awaitable[None]]:
    async def note(number: int) -> None:
        signals.append(number)
        then()

    return note


async def test_uninterruptible_program_ends_with_its_machine(run_in_harness: OpenHarness) -> None:
    """Escalation: two interrupts, a message that wakes blocked kernels, the end; state lost."""
    release = threading.Event()

    async with run_in_harness(lambda scripted, request: release.wait(10) and None) as harness:
        (finished,) = await harness.run(timeout=0.2)
        assert finished == ExecutionEnd(
            124, state="lost", exit_info=ExitInfo(reason=EndReason.TIMEOUT), timed_out=True
        )
        assert harness.machine.signals == [signal.SIGINT] * 2
        asked = harness.scripted.request_types.count("kernel_info_request")
        release.set()
        await until(lambda: harness.scripted.request_types.count("kernel_info_request") != asked)


async def test_program_that_has_replied_is_not_interrupted(run_in_harness: OpenHarness) -> None:
    """At the deadline, a run of which only the fence is missing has not timed out."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request, 5)
        threading.Event().wait(0.3)
        scripted.publish_fence(request)

    async with run_in_harness(script, KernelTimeouts(run_end=5)) as harness:
        assert await harness.run(timeout=0.1) == [ExecutionEnd(5)]
        assert harness.machine.signals == []


async def test_interrupt_by_message(run_in_harness: OpenHarness) -> None:
    """A kernelspec may say that its kernel is interrupted by a message on control."""
    async with run_in_harness(well_behaved, interrupt_mode="message") as harness:
        await harness.kernel.interrupt()
        await until(lambda: "interrupt_request" in harness.scripted.request_types)
        assert harness.machine.signals == []


async def test_escalation_survives_a_failing_interrupt(run_in_harness: OpenHarness) -> None:
    """Where interrupting fails, the escalation goes on to the end of the machine."""
    release = threading.Event()

    async def refuse(number: int) -> None:
        raise OSError("no such process")

    async with run_in_harness(lambda scripted, request: release.wait(10) and None) as harness:
        harness.machine.signal = refuse  # type: ignore[method-assign]
        (finished,) = await harness.run(timeout=0.1)
        assert isinstance(finished, ExecutionEnd)
        assert (finished.exit_code, finished.state) == (124, "lost")
        release.set()


# ---------------------------------------------------------------- escalations that a caller starts


def uninterruptible(release: threading.Event) -> Script:
    """A program that goes on until the test ends it."""
    return lambda scripted, request: release.wait(10) and None


async def _start_run(
    harness: KernelHarness, request: KernelRequest
) -> asyncio.Task[list[Output | ExecutionEnd]]:
    """A run that has reached its kernel."""

    async def run() -> list[Output | ExecutionEnd]:
        return [item async for batch in harness.kernel.execute(request) for item in batch]

    task = asyncio.create_task(run())
    await until(lambda: harness.scripted.requests)
    return task


def actions(steps: Sequence[InterruptStep]) -> list[str]:
    times = [step.seconds for step in steps]
    assert times == sorted(times)
    return [step.action for step in steps]


async def test_escalation_in_time_keeps_the_state(run_in_harness: OpenHarness) -> None:
    """A program that handles the interrupt ends as it likes, and its state is preserved."""
    stopped = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        stopped.wait(10)
        scripted.finish_run(request, 130)

    async with run_in_harness(script) as harness:
        request = make_request()
        run = await _start_run(harness, request)
        harness.machine.signal = _recording([], stopped.set)  # type: ignore[method-assign]
        assert actions(await harness.kernel.escalate_interrupt(request)) == ["interrupt"]
        assert await run == [ExecutionEnd(130, interrupted=True)]
        assert await harness.kernel.escalate_interrupt(request) == []
        assert not harness.machine.ended.done()


async def test_escalation_of_an_uninterruptible_program(run_in_harness: OpenHarness) -> None:
    """A program that ignores interrupts ends with its machine; all callers get the same steps."""
    release = threading.Event()

    async with run_in_harness(uninterruptible(release)) as harness:
        request = make_request()
        run = await _start_run(harness, request)
        first, second = await asyncio.gather(
            *(harness.kernel.escalate_interrupt(request) for _ in range(2))
        )
        assert actions(first) == ["interrupt", "interrupt again", "end"]
        assert first == second
        ending = ExitInfo(reason=EndReason.INTERRUPTED)
        assert await run == [ExecutionEnd(130, state="lost", exit_info=ending, interrupted=True)]
        assert harness.machine.signals == [signal.SIGINT] * 2
        release.set()


@pytest.mark.parametrize("after", [0.0, 0.05, 0.15])
async def test_escalation_and_deadline(run_in_harness: OpenHarness, after: float) -> None:
    """There is one escalation: its first cause says how the run ended."""
    release = threading.Event()

    async with run_in_harness(uninterruptible(release)) as harness:
        request = make_request(timeout=0.1)
        run = await _start_run(harness, request)
        await asyncio.sleep(after)
        steps = await harness.kernel.escalate_interrupt(request)
        assert actions(steps) == ["interrupt", "interrupt again", "end"]
        (finished,) = await run
        assert isinstance(finished, ExecutionEnd)
        assert finished.exit_code == (124 if finished.timed_out else 130)
        assert finished.timed_out is not finished.interrupted
        assert after < 0.1 or finished.timed_out
        assert harness.machine.signals == [signal.SIGINT] * 2
        release.set()


async def test_escalation_of_another_run(run_in_harness: OpenHarness) -> None:
    """A run that is not the current one is left alone: nothing is sent."""
    async with run_in_harness(well_behaved) as harness:
        first, second = make_request(), make_request()
        await (await _start_run(harness, first))
        run = await _start_run(harness, second)
        assert await harness.kernel.escalate_interrupt(first) == []
        assert await harness.kernel.escalate_interrupt(make_request()) == []
        await run
        assert harness.machine.signals == []


async def test_next_run_waits_for_the_interrupt(run_in_harness: OpenHarness) -> None:
    """A run is not over for its consumer while an interrupt is on its way to the kernel."""
    sent, arrive = threading.Event(), asyncio.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        sent.wait(10)
        scripted.finish_run(request)

    async def slow(number: int) -> None:
        sent.set()
        await arrive.wait()

    async with run_in_harness(script) as harness:
        request = make_request()
        run = await _start_run(harness, request)
        harness.machine.signal = slow  # type: ignore[method-assign]
        stopping = asyncio.create_task(harness.kernel.escalate_interrupt(request))
        await asyncio.sleep(0.1)
        assert not run.done()
        arrive.set()
        assert actions(await stopping) == ["interrupt"]
        assert await run == [ExecutionEnd(0, interrupted=True)]


@pytest.mark.parametrize("ends", [False, True])
async def test_interrupt_that_hangs(run_in_harness: OpenHarness, ends: bool) -> None:
    """The escalation keeps its deadline; an interrupt that may still arrive costs the machine."""
    release = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        release.wait(0.1 if ends else 10)
        scripted.finish_run(request)

    async def hang(number: int) -> None:
        await asyncio.Event().wait()

    async with run_in_harness(script) as harness:
        request = make_request()
        run = await _start_run(harness, request)
        harness.machine.signal = hang  # type: ignore[method-assign]
        assert actions(await harness.kernel.escalate_interrupt(request)) == ["interrupt", "end"]
        assert harness.machine.ended.done()
        (finished,) = await run
        assert isinstance(finished, ExecutionEnd)
        assert finished.exit_code == (0 if ends else 130)
        release.set()


async def test_escalation_of_what_has_replied(run_in_harness: OpenHarness) -> None:
    """Only output is missing: no interrupt, which the next run could hear; but the deadline."""

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.send_reply(request, 5)

    async with run_in_harness(
        script, KernelTimeouts(second_interrupt=0.1, kill=0.3, run_end=5)
    ) as harness:
        request = make_request()
        run = await _start_run(harness, request)
        await asyncio.sleep(0.1)
        assert actions(await harness.kernel.escalate_interrupt(request)) == ["end"]
        assert harness.machine.signals == []
        await run


# ---------------------------------------------------------------- ends


async def test_death_in_a_run_gives_its_output_first(run_in_harness: OpenHarness) -> None:
    """What a process wrote before it ended comes before the news of its end."""
    said = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        for _ in range(20):
            scripted.publish_stream(request, "x" * 10_000)
        said.set()

    async with run_in_harness(script) as harness:
        run = asyncio.create_task(harness.run())
        await asyncio.to_thread(said.wait)
        harness.machine.end(ExitInfo(code=7))
        *outputs, finished = await run
        assert sum(len(item.content) for item in outputs if isinstance(item, Stdout)) == 200_000
        assert finished == ExecutionEnd(7, state="lost", exit_info=ExitInfo(code=7))


async def test_death_with_endless_output_is_bounded(run_in_harness: OpenHarness) -> None:
    """A child that holds a dead kernel's sockets cannot keep the run open."""
    stop = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        while not stop.wait(0.01):
            scripted.publish_stream(request, "more")

    async with run_in_harness(script) as harness:
        run = asyncio.create_task(harness.run())
        await asyncio.sleep(0.1)
        harness.machine.end(ExitInfo(signal=9))
        last = (await run)[-1]
        stop.set()
        assert last == ExecutionEnd(137, state="lost", exit_info=ExitInfo(signal=9))


async def test_machine_ended_for_a_reason_ends_the_run_at_once(run_in_harness: OpenHarness) -> None:
    """A deletion in a run ends it with 137 and the reason, also for its consumer."""
    release = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, "before")
        release.wait(10)

    async with run_in_harness(script) as harness:
        items = []
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                items += batch
                await harness.machine.aclose(EndReason.DELETED)
        ending = ExitInfo(reason=EndReason.DELETED)
        assert items == [Stdout("before"), ExecutionEnd(137, state="lost", exit_info=ending)]
        release.set()


async def test_run_on_an_ended_machine_says_so(run_in_harness: OpenHarness) -> None:
    """The end of a kernel between runs is in the end of the next run, not an exception."""
    async with run_in_harness(well_behaved) as harness:
        harness.machine.end(ExitInfo(signal=11))
        assert await harness.run() == [
            ExecutionEnd(139, state="lost", exit_info=ExitInfo(signal=11))
        ]
        await asyncio.sleep(0)
        assert await harness.run() == [
            ExecutionEnd(139, state="lost", exit_info=ExitInfo(signal=11))
        ]


async def test_abandoned_run_goes_on_and_the_next_waits(run_in_harness: OpenHarness) -> None:
    """An abandoned run goes on in the kernel, its output is late, and the next run waits for it."""
    release = threading.Event()

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        if len(scripted.requests) == 1:
            scripted.publish_stream(request, "first")
            release.wait(10)
            scripted.publish_stream(request, "x" * 3 * MAX_PENDING_BYTES)
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        async with aclosing(harness.kernel.execute(make_request())) as batches:
            async for batch in batches:
                assert batch == [Stdout("first")]
                break
        following = asyncio.create_task(harness.run())
        await asyncio.sleep(0.1)
        assert len(harness.scripted.requests) == 1
        release.set()
        assert await following == [ExecutionEnd(0)]
        assert harness.late_output == [Stdout("x" * 3 * MAX_PENDING_BYTES)]


async def test_abandoned_run_still_has_its_deadline(run_in_harness: OpenHarness) -> None:
    """No caller waits for an abandoned run, and still its escalation ends it."""
    release = threading.Event()

    async with run_in_harness(lambda scripted, request: release.wait(10) and None) as harness:
        task = asyncio.create_task(harness.run(timeout=0.2))
        await asyncio.sleep(0.1)
        task.cancel()
        ending = await asyncio.wait_for(harness.machine.ended, 10)
        assert ending == ExitInfo(reason=EndReason.TIMEOUT)
        release.set()


# ---------------------------------------------------------------- readiness


@asynccontextmanager
async def _run_without_kernel(tmp_path: Path) -> AsyncIterator[tuple[Kernel, FakeMachineHandle]]:
    """Runs `act` with a kernel whose process is not there."""
    machine = FakeMachineHandle()
    kernel = Kernel(ConnectionInfo.new(tmp_path), machine)
    try:
        yield (kernel, machine)
    finally:
        machine.end(ExitInfo(reason=EndReason.STOPPED))
        await asyncio.sleep(0)


async def test_kernel_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """A kernel that is not there in time has failed to start."""
    async with _run_without_kernel(tmp_path) as (kernel, _):
        with pytest.raises(KernelStartFailed, match=r"not ready within 0\.3 seconds"):
            await kernel.wait_ready(0.3)


async def test_kernel_that_ends_before_it_is_ready(tmp_path: Path) -> None:
    """A kernel that ends while it starts fails at once, with the cause."""
    async with _run_without_kernel(tmp_path) as (kernel, machine):
        asyncio.get_running_loop().call_later(0.05, machine.end, ExitInfo(code=3))
        with pytest.raises(KernelStartFailed, match="exit 3"):
            await kernel.wait_ready(20)


async def test_kernel_may_come_later_than_its_client(tmp_path: Path) -> None:
    """Our sockets are there before the kernel's, and find them when they come."""
    connection, machine = ConnectionInfo.new(tmp_path), FakeMachineHandle()
    kernel = Kernel(connection, machine)
    waiting = asyncio.create_task(kernel.wait_ready(10))
    await asyncio.sleep(0.3)
    with ScriptedKernel(connection, well_behaved).serving():
        await waiting
    machine.end(ExitInfo(reason=EndReason.STOPPED))
    await asyncio.sleep(0)

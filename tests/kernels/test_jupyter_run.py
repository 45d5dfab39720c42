"""Runs on kernels that only know Jupyter: when they end, what errors become, what is late."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from era_kernels.kernels.active_run import NOT_ANSWERING, KernelTimeouts
from era_kernels.kernels.dialects import REFUSED
from era_kernels.models import ExceptionInfo, ExecutionEnd, ExitInfo, Stderr, Stdout
from tests.kernels.scripted_kernel import (
    SHORT_TIMEOUTS,
    JupyterMessage,
    ScriptedKernel,
    make_request,
    open_harness,
)
from tests.waiting import until

pytestmark = [pytest.mark.timeout(30), pytest.mark.timed]  # short timeouts

OK: JupyterMessage = {"status": "ok", "execution_count": 1, "payload": []}
RED = "\x1b[0;31m"
BOOM: JupyterMessage = {
    "status": "error",
    "ename": f"{RED}Boom\x1b[0m",
    "evalue": "it broke",
    "traceback": [f"{RED}Traceback\x1b[0m", "  line 3", "Boom: it broke"],
}
BOOM_TEXT = "Traceback\n  line 3\nBoom: it broke\n"
BOOM_INFO = ExceptionInfo("Boom", "it broke", BOOM_TEXT.splitlines())


async def play(directory: Path, script: object, runs: int = 1) -> list[list[object]]:
    """Returns what each of some runs on one kernel yields, and at last its late output."""
    async with open_harness(directory, script, has_fence=False) as harness:  # type: ignore[arg-type]
        found: list[list[object]] = [[*await harness.run(number=n)] for n in range(runs)]
        await asyncio.sleep(0.3)
        return [*found, [*harness.late_output]]


@pytest.mark.parametrize("order", ["idle first", "reply first", "output between"])
async def test_run_ends_with_reply_and_idle(tmp_path: Path, order: str) -> None:
    """A run is over when the kernel has replied and is idle, whichever comes first."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish("status", {"execution_state": "busy"}, request)
        kernel.publish_stream(request, "a")
        if order == "reply first":
            kernel.send_reply_content(request, OK)
            time.sleep(0.1)
            kernel.publish_stream(request, "b")
            kernel.publish_idle(request)
            return
        kernel.publish_idle(request)
        if order == "output between":
            kernel.publish_stream(request, "b")
        time.sleep(0.1)
        kernel.send_reply_content(request, OK)

    items, late = await play(tmp_path, script)
    text = "".join(item.content for item in items if isinstance(item, Stdout))
    assert text == ("a" if order == "idle first" else "ab")
    assert items[-1] == ExecutionEnd(0)
    assert late == []


async def test_idle_of_another_request_ends_nothing(tmp_path: Path) -> None:
    """Only the idle status of the run's own request counts: comms and inspections have theirs."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish("status", {"execution_state": "idle"}, None)
        kernel.publish("status", {"execution_state": "idle"}, {**request, "header": {}})
        kernel.send_reply_content(request, OK)
        time.sleep(0.1)
        kernel.publish_stream(request, "still mine")
        kernel.publish_idle(request)

    items, late = await play(tmp_path, script)
    assert (items, late) == ([Stdout("still mine"), ExecutionEnd(0)], [])


async def test_late_output_never_goes_into_the_next_run(tmp_path: Path) -> None:
    """What carries an earlier run's id after its end is late output."""
    first: list[JupyterMessage] = []

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        first.append(request)
        kernel.publish_stream(first[0], f"of the first, in run {len(first)}")
        kernel.publish_stream(request, "own")
        kernel.send_reply_content(request, OK)
        kernel.publish_idle(request)
        time.sleep(0.05)
        kernel.publish_stream(request, "after")

    one, two, late = await play(tmp_path, script, runs=2)
    assert "".join(item.content for item in one if isinstance(item, Stdout)).endswith("1own")
    assert two == [Stdout("own"), ExecutionEnd(0)]
    texts = [item.content for item in late if isinstance(item, Stdout)]
    assert texts == ["after", "of the first, in run 2", "after"]


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (OK, ExecutionEnd(0)),
        (BOOM, ExecutionEnd(1, BOOM_INFO)),
        ({"status": "aborted"}, ExecutionEnd(1)),
        ({"status": "abort"}, ExecutionEnd(1)),
        ({"status": "error"}, ExecutionEnd(1)),
        (
            {"status": "error", "ename": "E", "evalue": "v"},
            ExecutionEnd(1, ExceptionInfo("E", "v", [])),
        ),
        ({"status": "error", "ename": 1, "evalue": None, "traceback": "x"}, ExecutionEnd(1)),
    ],
    ids=lambda value: value["status"] if isinstance(value, dict) else "",
)
async def test_exit_code_is_that_of_the_status(
    tmp_path: Path, reply: JupyterMessage, end: ExecutionEnd
) -> None:
    """A reply without an `era` object gives 0 or 1, and its exception without colours."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish_stream(request, "on stderr", "stderr")
        kernel.send_reply_content(request, reply)
        kernel.publish_idle(request)

    items, _ = await play(tmp_path, script)
    assert items == [Stderr("on stderr"), end]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (BOOM, BOOM_TEXT),
        ({"ename": "E", "evalue": "v", "traceback": []}, "E: v\n"),
        ({"ename": "E", "evalue": f"{RED}v\x1b[m"}, "E: v\n"),
        ({"ename": "E", "evalue": "v", "traceback": ["one\n\n", "two\n"]}, "one\n\n\ntwo\n"),
    ],
)
async def test_error_message_is_text_on_stderr(
    tmp_path: Path, content: JupyterMessage, text: str
) -> None:
    """An `error` message is shown once, in its place, as on a terminal without colours."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish_stream(request, "before")
        kernel.publish("error", content, request)
        kernel.send_reply_content(request, BOOM)
        kernel.publish_idle(request)

    items, _ = await play(tmp_path, script)
    assert items == [Stdout("before"), Stderr(text), ExecutionEnd(1, BOOM_INFO)]


async def test_exception_of_the_reply_alone_is_shown(tmp_path: Path) -> None:
    """A kernel that sends no `error` message tells of the exception in its reply."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.send_reply_content(request, BOOM)
        kernel.publish_idle(request)

    items, _ = await play(tmp_path, script)
    assert items == [Stderr(BOOM_TEXT), ExecutionEnd(1, BOOM_INFO)]


@pytest.mark.parametrize("content", [{}, {"traceback": 1}, {"traceback": [1]}, {"ename": "E"}])
async def test_error_of_a_wrong_shape_is_dropped(tmp_path: Path, content: JupyterMessage) -> None:
    """What is no error message is counted, and disturbs nothing."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish("error", content, request)
        kernel.publish("input_request", {"prompt": "?", "key": "k"}, request)
        kernel.send_reply_content(request, OK)
        kernel.publish_idle(request)

    async with open_harness(tmp_path, script, has_fence=False) as harness:
        assert await harness.run() == [ExecutionEnd(0)]
        assert harness.kernel.dropped_count == 1


async def test_error_message_of_a_kernel_with_a_fence_is_not_shown(tmp_path: Path) -> None:
    """Such a kernel has put the text on stderr itself; the message is for other clients."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish("error", BOOM, request)
        kernel.publish_idle(request)
        kernel.publish_stream(request, "after idle")
        kernel.finish_run(request, 1)

    async with open_harness(tmp_path, script) as harness:
        assert await harness.run() == [Stdout("after idle"), ExecutionEnd(1)]


@pytest.mark.parametrize("sent", ["reply", "idle"])
async def test_half_an_end_ends_the_machine(tmp_path: Path, sent: str) -> None:
    """A kernel that owes its reply or its idle status is given up, as one that owes a fence."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        if sent == "reply":
            kernel.send_reply_content(request, OK)
        else:
            kernel.publish_idle(request)

    (end,), _ = await play(tmp_path, script)
    expected = ExitInfo(reason=NOT_ANSWERING)
    assert isinstance(end, ExecutionEnd)
    assert (end.exit_info, end.state) == (expected, "lost")


async def test_questions_of_ours_are_not_asked(tmp_path: Path) -> None:
    """A kernel that only knows Jupyter gets only what Jupyter knows."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        time.sleep(1.2)  # longer than the server waits before it asks ours whether they work
        kernel.send_reply_content(request, OK)
        kernel.publish_idle(request)

    async with open_harness(tmp_path, script, has_fence=False) as harness:
        assert await harness.run() == [ExecutionEnd(0)]
        known = {"kernel_info_request", "execute_request"}
        assert set(harness.scripted.request_types) == known


@pytest.mark.parametrize("replies", [True, False])
async def test_interrupt_by_message_ends_the_run(tmp_path: Path, replies: bool) -> None:
    """An interrupt is a request on control, answered or not; the run ends with 130."""
    running: list[JupyterMessage] = []

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        running.append(request)

    def on_control(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        if request["msg_type"] == "interrupt_request":
            if replies:
                kernel.reply_on_control(request, {"status": "ok"}, "interrupt_reply")
            kernel.publish("error", BOOM, running[0])
            kernel.send_reply_content(running[0], BOOM)
            kernel.publish_idle(running[0])

    async with open_harness(tmp_path, script, interrupt_mode="message", has_fence=False) as harness:
        harness.scripted.on_control = on_control
        request = make_request()
        batches = harness.kernel.execute(request)
        task = asyncio.ensure_future(anext(batches))
        await until(lambda: running)
        (step,) = await harness.kernel.escalate_interrupt(request)
        assert step.action == "interrupt"
        items = [*await task, *[item async for batch in batches for item in batch]]
        assert items == [Stderr(BOOM_TEXT), ExecutionEnd(130, BOOM_INFO, interrupted=True)]
        assert harness.machine.signals == []


async def test_interrupt_by_message_does_not_hit_the_next_run(tmp_path: Path) -> None:
    """The next run starts when the kernel has taken the interrupt of the last one."""
    events: list[str] = []

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        events.append("run")
        if len(events) > 1:
            kernel.send_reply_content(request, OK)
            kernel.publish_idle(request)
        else:
            running.append(request)

    def on_control(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        if request["msg_type"] == "interrupt_request":
            kernel.send_reply_content(running[0], BOOM)
            kernel.publish_idle(running[0])
            time.sleep(0.03)  # the run is over, the interrupt is not taken yet
            events.append("interrupt taken")
            kernel.reply_on_control(request, {"status": "ok"}, "interrupt_reply")

    running: list[JupyterMessage] = []
    async with open_harness(tmp_path, script, interrupt_mode="message", has_fence=False) as harness:
        harness.scripted.on_control = on_control
        (*_, end) = await harness.run(timeout=0.1)
        assert end == ExecutionEnd(124, timed_out=True)
        assert (await harness.run())[-1] == ExecutionEnd(0)
        assert events == ["run", "interrupt taken", "run"]


async def test_death_in_a_run_is_told(tmp_path: Path) -> None:
    """A kernel that ends in a run ends it with its own exit code."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish_stream(request, "last words")

    async with open_harness(tmp_path, script, has_fence=False) as harness:
        asyncio.get_running_loop().call_later(0.1, harness.machine.end, ExitInfo(code=7))
        items = await harness.run()
        assert items[0] == Stdout("last words")
        assert items[-1] == ExecutionEnd(7, state="lost", exit_info=ExitInfo(code=7))


@pytest.mark.parametrize("order", ["idle first", "reply first"])
@pytest.mark.parametrize("status", ["aborted", "abort"])
async def test_refused_run_is_asked_for_again(tmp_path: Path, order: str, status: str) -> None:
    """What a kernel refuses because an earlier run failed just now, runs a little later."""
    requests: list[JupyterMessage] = []

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        requests.append(request)
        refuses = len(requests) in (2, 3)
        if not refuses:
            kernel.publish_stream(request, f"request {len(requests)}")
        if order == "idle first":
            kernel.publish_idle(request)
        kernel.send_reply_content(request, {"status": status} if refuses else OK)
        if order == "reply first":
            kernel.publish_idle(request)

    first, second, late = await play(tmp_path, script, runs=2)
    assert first == [Stdout("request 1"), ExecutionEnd(0)]
    assert second == [Stdout("request 4"), ExecutionEnd(0)]
    assert late == []


async def test_run_that_is_refused_for_good(tmp_path: Path) -> None:
    """A kernel that refuses a run again and again has said so: the run ends, and tells why."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.send_reply_content(request, {"status": "aborted"})
        kernel.publish_idle(request)

    items, _ = await play(tmp_path, script)
    assert items == [Stderr(REFUSED), ExecutionEnd(1)]


async def test_deadline_of_a_run_that_is_refused(tmp_path: Path) -> None:
    """A run whose time is over while the kernel refuses it has ended by its time."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.send_reply_content(request, {"status": "aborted"})
        kernel.publish_idle(request)

    async with open_harness(tmp_path, script, has_fence=False) as harness:
        items = await harness.run(timeout=0.1)
    assert items[-1] == ExecutionEnd(124, timed_out=True)


async def test_output_behind_the_end_of_a_kernel_that_settles(tmp_path: Path) -> None:
    """Where a kernel is said to send output after its end, the run ends when it is silent."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.send_reply_content(request, OK)
        kernel.publish_idle(request)
        for text in "abc":
            time.sleep(0.1)
            kernel.publish_stream(request, text)

    timeouts = replace(SHORT_TIMEOUTS, settle=0.5)
    async with open_harness(tmp_path, script, timeouts, has_fence=False) as harness:
        items = await harness.run()
    assert "".join(item.content for item in items if isinstance(item, Stdout)) == "abc"
    assert items[-1] == ExecutionEnd(0)


def test_settling_is_shorter_than_what_ends_a_machine() -> None:
    """A kernel that prints behind its end is no kernel that stopped answering."""
    assert 0 < KernelTimeouts().max_settle < KernelTimeouts().max_run_end


async def test_output_that_never_stops_behind_the_end(tmp_path: Path) -> None:
    """A run ends though its output does not: the rest is late output, and the kernel lives on."""
    is_over = threading.Event()

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.send_reply_content(request, OK)
        kernel.publish_idle(request)
        if len(kernel.requests) > 1:
            return
        while not is_over.wait(0.02):
            kernel.publish_stream(request, "tick")

    timeouts = replace(SHORT_TIMEOUTS, settle=0.2, max_settle=0.6)
    async with open_harness(tmp_path, script, timeouts, has_fence=False) as harness:
        try:
            started_at = time.monotonic()
            items = await harness.run()
            assert time.monotonic() - started_at < 5
            assert items[-1] == ExecutionEnd(0)
            await asyncio.sleep(0.2)
            assert Stdout("tick") in harness.late_output
        finally:
            is_over.set()
        assert (await harness.run(number=2))[-1] == ExecutionEnd(0)


@pytest.mark.parametrize("forged", ["one idle", "idle for ever"])
@pytest.mark.parametrize("ends", ["deadline", "interrupt"])
async def test_forged_idle_stops_no_clock(tmp_path: Path, forged: str, ends: str) -> None:
    """Code that says that it is idle, and prints for ever, ends as any other does."""
    is_over = threading.Event()

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        kernel.publish_idle(request)
        while not is_over.wait(0.02):
            kernel.publish_stream(request, "still here")
            if forged != "one idle":
                kernel.publish_idle(request)

    async with open_harness(tmp_path, script, has_fence=False) as harness:
        request = make_request(timeout=0.5 if ends == "deadline" else 20)
        if ends == "interrupt":
            interrupt = harness.kernel.escalate_interrupt(request)
            asyncio.get_running_loop().call_later(0.5, asyncio.ensure_future, interrupt)
        started_at = time.monotonic()
        try:
            items = [item async for batch in harness.kernel.execute(request) for item in batch]
        finally:
            is_over.set()
        assert time.monotonic() - started_at < 5
        assert harness.machine.signals  # it was asked to stop before it was ended
    end = items[-1]
    assert isinstance(end, ExecutionEnd)
    assert (end.exit_code, end.state) == ((124 if ends == "deadline" else 130), "lost")


async def test_refusals_by_the_thousand(tmp_path: Path) -> None:
    """However often a kernel refuses one request, it is asked for the run once more."""

    def script(kernel: ScriptedKernel, request: JupyterMessage) -> None:
        if len(kernel.requests) > 1:
            kernel.send_reply_content(request, OK)
            kernel.publish_idle(request)
            return
        nonce = request["metadata"]["era"]["nonce"]
        forged = {**request, "header": {**request["header"], "msg_id": nonce}}
        for _ in range(1000):
            kernel.send_reply_content(request, {"status": "aborted"})
            kernel.send_reply_content(forged, {"status": "aborted"})

    timeouts = replace(SHORT_TIMEOUTS, run_end=KernelTimeouts().run_end)  # for a busy machine
    async with open_harness(tmp_path, script, timeouts, has_fence=False) as harness:
        assert await harness.run() == [ExecutionEnd(0)]
        await asyncio.sleep(0.3)
        assert len(harness.scripted.requests) == 2

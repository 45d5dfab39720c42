"""A kernel's end is reported in its run, after all of its output, or as late output."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.models import EndReason, ExecutionEnd, ExitInfo, Output, Stderr, Stdout
from tests.kernels.scripted_kernel import (
    JupyterMessage,
    OpenHarness,
    ScriptedKernel,
)
from tests.waiting import until

CRASH_STDERR = "free(): invalid pointer\n"


def never_ends(scripted: ScriptedKernel, request: JupyterMessage) -> None:
    """Prints something, but never ends."""
    scripted.publish_stream(request, "before")


def ends_normally(scripted: ScriptedKernel, request: JupyterMessage) -> None:
    scripted.finish_run(request)


async def test_in_a_run(run_in_harness: OpenHarness) -> None:
    """The crash output belongs to the run, once, after its output; late output has none of it."""
    async with run_in_harness(never_ends) as harness:
        harness.machine.stderr = "of the time before the run"
        running = asyncio.create_task(harness.run())
        await until(lambda: harness.scripted.requests)
        harness.machine.stderr = CRASH_STDERR
        harness.machine.end(ExitInfo(signal=6))
        *outputs, finished = await running
        assert outputs[0] == Stdout("before")
        assert outputs[1:] == [Stderr(CRASH_STDERR)]
        assert finished == ExecutionEnd(134, state="lost", exit_info=ExitInfo(signal=6))
        await until(harness.kernel.closed.done)
        assert harness.late_output == []


@pytest.mark.parametrize("reason", list(EndReason))
async def test_intended_end(run_in_harness: OpenHarness, reason: EndReason) -> None:
    """A kernel that is ended on purpose has no crash output, in a run or between runs."""
    async with run_in_harness(never_ends) as harness:
        running = asyncio.create_task(harness.run())
        await until(lambda: harness.scripted.requests)
        harness.machine.stderr = CRASH_STDERR
        harness.machine.end(ExitInfo(reason=reason))
        items = await running
        assert not any(isinstance(item, Stderr) for item in items)
        await until(harness.kernel.closed.done)
        assert harness.late_output == []


ENDINGS = [
    (ExitInfo(code=3), "exit 3"),
    (ExitInfo(signal=11), "signal 11 (SIGSEGV)"),
    (ExitInfo(signal=9, reason="out of memory at 512 MB"), "out of memory at 512 MB"),
]


@pytest.mark.parametrize("after_a_run", [False, True])
@pytest.mark.parametrize(("exit_info", "cause"), ENDINGS)
async def test_between_runs(
    run_in_harness: OpenHarness,
    exit_info: ExitInfo,
    cause: str,
    after_a_run: bool,
) -> None:
    """Late output that is on its way comes first, then crash output and the cause, once."""
    async with run_in_harness(ends_normally) as harness:
        if after_a_run:
            await harness.run()
        harness.machine.stderr = CRASH_STDERR
        harness.scripted.publish("stream", {"name": "stdout", "text": "bye"}, None)
        harness.machine.end(exit_info)
        await until(harness.kernel.closed.done)
        expected: list[Output] = [
            Stdout("bye"),
            Stderr(f"{CRASH_STDERR}The kernel's process ended: {cause}.\n"),
        ]
        assert harness.late_output == expected
        assert await harness.run() == [
            ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info)
        ]
        await asyncio.sleep(0.1)
        assert harness.late_output == expected


@pytest.mark.parametrize("reason", list(EndReason))
async def test_intended_end_between_runs(run_in_harness: OpenHarness, reason: EndReason) -> None:
    """Nothing is reported, and the connection is closed at once."""
    async with run_in_harness(ends_normally) as harness:
        await harness.run()
        harness.machine.end(ExitInfo(reason=reason))
        await asyncio.sleep(0)
        assert harness.kernel.closed.done()
        assert harness.late_output == []


async def test_child_that_goes_on_talking(run_in_harness: OpenHarness) -> None:
    """A child that holds the socket cannot keep the end from being reported."""
    async with run_in_harness(ends_normally) as harness:
        harness.machine.end(ExitInfo(code=1))
        async with asyncio.timeout(5):
            while not harness.kernel.closed.done():
                harness.scripted.publish("stream", {"name": "stdout", "text": "x"}, None)
                await asyncio.sleep(0.01)
        assert harness.late_output[-1] == Stderr("The kernel's process ended: exit 1.\n")

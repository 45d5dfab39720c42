"""Machines and commands on sandboxes that a test plays: what no real process does on demand."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed
from era_kernels.kernels.exec_process import ExecProcess, ExecTimeouts, FailedExec
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    Limits,
    Output,
    Stderr,
    Stdout,
)
from era_kernels.sandbox.server.process_spec import ProcessNotStarted
from tests.fakes import make_kernelspec
from tests.kernels.conftest import make_paths
from tests.kernels.fake_sandbox import FakeProcess, FakeSandbox, FakeSandboxes
from tests.waiting import until

QUICK = ExecTimeouts(second_interrupt=0.1, kill=1.0, close_machine=0.02, max_drain=0.1)


class FakeExecHost:
    """A machine that ends only when it is told to."""

    is_running = True

    def __init__(self) -> None:
        self.reasons: list[str | None] = []

    async def exit_info_for_commands(self) -> ExitInfo:
        return ExitInfo(reason="the sandbox ended")

    async def aclose(self, reason: str | None = None) -> None:
        self.is_running = False
        self.reasons.append(reason)


class CommandFixture:
    """A command whose process the test plays."""

    def __init__(self) -> None:
        readable = asyncio.Event()
        self.process = FakeProcess(readable)
        self.host = FakeExecHost()
        self.late: list[Output] = []
        self.program = ExecProcess(self.process, readable, self.host, self.late.extend, QUICK)

    async def run(self, timeout: float = 30) -> tuple[str, ExecutionEnd]:
        items = [item async for batch in self.program.events(timeout) for item in batch]
        assert isinstance(items[-1], ExecutionEnd)
        return "".join(one.content for one in items if isinstance(one, Stdout)), items[-1]

    def end_at_signal(self, count: int, exit_info: ExitInfo) -> None:
        """Ends the process at that signal, counted from 1."""

        def on_signal(number: int) -> None:
            if len(self.process.signals) == count:
                self.process.end(exit_info)

        self.process.on_signal = on_signal


def failing_signal(number: int) -> None:
    if number == signal.SIGINT:
        raise OSError("no answer")


@pytest.mark.parametrize(
    ("end_at", "steps", "signals"),
    [
        (1, ["interrupt"], [signal.SIGINT]),
        (2, ["interrupt", "interrupt again"], [signal.SIGINT] * 2),
        (3, ["interrupt", "interrupt again", "end"], [signal.SIGINT] * 2 + [signal.SIGKILL]),
    ],
)
async def test_escalation(end_at: int, steps: list[str], signals: list[int]) -> None:
    """Each step comes only where the one before did not help; the program alone ends."""
    fixture = CommandFixture()
    fixture.end_at_signal(end_at, ExitInfo(signal=signals[-1]))
    running = asyncio.create_task(fixture.run())
    await asyncio.sleep(0)
    assert [step.action for step in await fixture.program.interrupt()] == steps
    _, end = await running
    assert (end.exit_code, end.interrupted, end.state) == (130, True, "preserved")
    assert fixture.process.signals == signals
    assert fixture.host.reasons == []


async def test_interrupt_that_fails() -> None:
    """A program that cannot be interrupted is killed."""
    fixture = CommandFixture()
    kill = fixture.process.on_signal

    def on_signal(number: int) -> None:
        failing_signal(number)
        kill(number)

    fixture.process.on_signal = on_signal
    with pytest.raises(OSError, match="no answer"):
        await fixture.program.interrupt()
    assert fixture.process.signals == [signal.SIGINT, signal.SIGKILL]
    assert (await fixture.run())[1].exit_code == 130


async def test_program_that_cannot_be_killed() -> None:
    """Its machine ends then, with the reason."""
    fixture = CommandFixture()
    fixture.process.on_signal = lambda number: None
    running = asyncio.create_task(fixture.run(timeout=0))
    await until(lambda: fixture.host.reasons)
    assert fixture.process.kills_group_on_exit
    fixture.process.end(ExitInfo(signal=signal.SIGKILL))
    end = (await running)[1]
    assert (end.exit_code, end.timed_out, end.state) == (124, True, "lost")
    assert fixture.host.reasons == [EndReason.TIMEOUT]
    assert end.exit_info == ExitInfo(reason="the sandbox ended")


async def test_late_output() -> None:
    """What children print after the end is late; text cut in a character is mended."""
    fixture = CommandFixture()
    fixture.process.stdout.write(b"caf\xc3")
    fixture.process.end(ExitInfo(code=0))
    assert await fixture.run() == ("caf\ufffd", ExecutionEnd(0))
    fixture.process.stderr.write("später".encode())
    assert fixture.late == [Stderr("später")]


async def test_consumer_that_leaves() -> None:
    """The program goes on; what it prints then is late output."""
    fixture = CommandFixture()
    fixture.process.stdout.write(b"a")
    async with aclosing(fixture.program.events(30)) as batches:
        assert await anext(batches) == [Stdout("a")]
    fixture.process.stdout.write(b"b")
    assert fixture.late == [Stdout("b")]
    assert fixture.process.is_running


# ---------------------------------------------------------------- machines


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[Machine, FakeSandbox]]:
    sandboxes = FakeSandboxes(directory)
    host = Machines(Languages([make_kernelspec("alpha")]), sandboxes)
    machine = await host.open("alpha", make_paths(directory), Limits(), {}, kernel=False)
    yield machine, sandboxes.opened[0]
    await host.aclose()


async def start(machine: Machine) -> ExecProcess:
    program = await machine.start_command(("true",), {"A": "1"})
    assert isinstance(program, ExecProcess)
    return program


async def test_command_begins_in_the_workspace(tmp_path: Path) -> None:
    """It gets the caller's variables, beside the machine's own."""
    async with opened(tmp_path) as (machine, sandbox):
        await start(machine)
        [command] = sandbox.commands
        assert command.cwd == str(tmp_path / "workspace")
        assert command.env["A"] == "1"
        assert "PATH" in command.env


@pytest.mark.parametrize(
    ("number", "exit_code"), [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.E2BIG, 126)]
)
async def test_command_that_the_system_refuses(tmp_path: Path, number: int, exit_code: int) -> None:
    """It is reported as shells report it."""
    async with opened(tmp_path) as (machine, sandbox):
        sandbox.spawn_error = ProcessNotStarted("true", "refused", number)
        program = await machine.start_command(("true",), {})
        assert isinstance(program, FailedExec)
        [batch] = [batch async for batch in program.events(1)]
        assert batch == [Stderr("true: refused\n"), ExecutionEnd(exit_code)]


async def test_command_in_a_sandbox_that_just_ended(tmp_path: Path) -> None:
    """The end of the sandbox is the end of the command; while it runs, the error is raised."""
    async with opened(tmp_path) as (machine, sandbox):
        sandbox.spawn_error = KernelStartFailed("It cannot start any.")
        with pytest.raises(KernelStartFailed):
            await machine.start_command(("true",), {})
        sandbox.die(ExitInfo(reason="out of memory"))
        await asyncio.sleep(0)
        program = await machine.start_command(("true",), {})
        [[end]] = [batch async for batch in program.events(1)]
        assert isinstance(end, ExecutionEnd)
        assert (end.exit_code, end.state) == (137, "lost")
        assert end.exit_info == ExitInfo(reason="out of memory")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda machine: machine.aclose("enough"), "enough"),
        (lambda machine: machine.aclose(), EndReason.STOPPED),
    ],
)
async def test_reason_of_the_end(
    tmp_path: Path, end: Callable[[Machine], asyncio.Future[None]], reason: str
) -> None:
    """Who ends a machine says why; no command runs in it any more."""
    async with opened(tmp_path) as (machine, sandbox):
        program = await start(machine)
        await end(machine)
        assert machine.ended.result() == ExitInfo(reason=reason)
        assert not machine.is_running
        assert not sandbox.processes[0].is_running
        [[finished]] = [batch async for batch in program.events(30)]
        assert isinstance(finished, ExecutionEnd)
        assert finished.state == "lost"


async def test_host_that_gets_no_sandbox(tmp_path: Path) -> None:
    """The error is the caller's, and the host has no machine."""
    sandboxes = FakeSandboxes(tmp_path, open_error=KernelStartFailed("No walls."))
    host = Machines(Languages([make_kernelspec("alpha")]), sandboxes)
    with pytest.raises(KernelStartFailed):
        await host.open("alpha", make_paths(tmp_path), Limits(), {})
    await host.aclose()

"""In-memory fakes for the package `kernels`: the same methods, scripted by tests.

A script is an async generator function of the machine and the request. It yields outputs, or
lists of them, and at last an `ExecutionEnd`; without one, the run ends with exit code 0:

    async def says_hello(machine, request):
        yield Stdout("hello\\n")

    host = FakeHost(says_hello)
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from era_kernels.errors import EraError, KernelStartFailed
from era_kernels.kernels.kernelspecs import NO_MINIMUMS, Kernelspec
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.services_in_machine import DEFAULT_PERMISSIONS, Permissions
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    InternetAccess,
    InterruptStep,
    Isolation,
    KernelRequest,
    Limits,
    Output,
    SessionPaths,
    StackFrame,
    Variables,
)

UNSANDBOXED = Isolation(4, ("files", "network"))
Item = Output | ExecutionEnd
Script = Callable[["FakeMachine", KernelRequest], AsyncIterator[Item | list[Item]]]


async def quiet(machine: FakeMachine, request: KernelRequest) -> AsyncIterator[Item]:
    """Plays a program that prints nothing."""
    yield ExecutionEnd(0)


async def endless(machine: FakeMachine, request: KernelRequest) -> AsyncIterator[Item]:
    """Plays a program that ends when it is interrupted, at its deadline, or with its machine."""
    try:
        async with asyncio.timeout(request.timeout):
            await machine.kernel.interrupted.wait()
        yield ExecutionEnd(130)
    except TimeoutError:
        yield ExecutionEnd(124, timed_out=True)


class FakeControlClient:
    """Answers control requests with `variables_found` and `frames`, and notes input."""

    def __init__(self) -> None:
        self.frames: list[StackFrame] = []
        self.variables_found = Variables()
        self.answers: dict[str, str | None] = {}  # by request key; None: end of input
        self.withdrawn_keys: set[str] = set()  # keys of requests that do not wait any more

    async def stack(self) -> list[StackFrame]:
        return self.frames

    async def variables(self) -> Variables:
        return self.variables_found

    async def send_input(self, key: str, value: str) -> bool:
        if key in self.withdrawn_keys:
            return False
        self.answers[key] = value
        return True

    def send_eof(self, key: str) -> None:
        self.answers[key] = None

    async def wait_for_answer(self, key: str) -> str | None:
        """Waits for the answer of a request, as a program does."""
        while key not in self.answers:
            await asyncio.sleep(0.001)
        return self.answers.pop(key)


class FakeKernel:
    """Records the requests and plays the script."""

    def __init__(self, machine: FakeMachine, script: Script) -> None:
        self.script = script
        self.control = FakeControlClient()
        self.requests: list[KernelRequest] = []
        self.stopped_requests: list[KernelRequest] = []
        self.interrupt_count = 0
        self.interrupted = asyncio.Event()
        self.on_late_output: Callable[[list[Output]], None] = lambda events: None
        self._machine = machine

    async def wait_ready(self, timeout: float) -> None:
        """Returns at once: the fake is always ready."""

    async def interrupt(self) -> None:
        self.interrupt_count += 1
        self.interrupted.set()

    async def escalate_interrupt(self, request: KernelRequest) -> list[InterruptStep]:
        """Takes the first step of the escalation; the machine is never ended."""
        self.stopped_requests.append(request)
        await self.interrupt()
        return [InterruptStep("interrupt", 0.0)]

    async def execute(self, request: KernelRequest) -> AsyncGenerator[list[Item], None]:
        """Yields the script's batches; the end of the machine wins over the script at any time."""
        self.requests.append(request)
        self.interrupted.clear()
        ended = self._machine.ended
        async with aclosing(_play(self.script(self._machine, request))) as batches:
            while not ended.done():
                batch = await _unless_ended(ended, anext(batches))
                if batch is None:
                    break
                yield batch
                if isinstance(batch[-1], ExecutionEnd):
                    return
        exit_info = ended.result()
        yield [ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info)]


async def _unless_ended(
    ended: asyncio.Future[ExitInfo], step: Awaitable[list[Item]]
) -> list[Item] | None:
    """Returns the step's result; None, and cancels the step, when the machine ends before."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _play(
    items: AsyncIterator[Item | list[Item]],
) -> AsyncGenerator[list[Item], None]:
    async for item in items:
        batch = item if isinstance(item, list) else [item]
        yield batch
        if isinstance(batch[-1], ExecutionEnd):
            return
    yield [ExecutionEnd(0)]


class FakeExecProcess:
    """Plays the script with the program's last argument as code; ends with the machine, too."""

    def __init__(self, machine: FakeMachine, script: Script, request: KernelRequest) -> None:
        self.stdin: str | None = None
        self.end_reasons: list[str] = []
        self._machine = machine
        self._script = script
        self._request = request
        self._ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()

    async def events(self, timeout: float) -> AsyncGenerator[list[Item], None]:
        machine_ended = self._machine.ended
        machine_ended.add_done_callback(lambda ended: self._end(ended.result()))
        request = replace(self._request, timeout=timeout)
        async with aclosing(_play(self._script(self._machine, request))) as batches:
            while not self._ended.done():
                batch = await _unless_ended(self._ended, anext(batches))
                if batch is None:
                    break
                yield batch
                if isinstance(batch[-1], ExecutionEnd):
                    return
        exit_info = self._ended.result()
        state = "lost" if machine_ended.done() else "preserved"
        yield [ExecutionEnd(exit_info.exit_code, state=state, exit_info=exit_info)]

    async def interrupt(self) -> list[InterruptStep]:
        self._end(ExitInfo(signal=2))
        return [InterruptStep("interrupt", 0.0)]

    async def kill(self, reason: str) -> None:
        self.end_reasons.append(reason)
        self._end(ExitInfo(reason=reason))

    def _end(self, exit_info: ExitInfo) -> None:
        if not self._ended.done():
            self._ended.set_result(exit_info)


class FakeMachine:
    """A machine without a process. Scripts may read `paths`; `close_gate` makes its end slow."""

    def __init__(
        self,
        script: Script,
        env: Mapping[str, str],
        paths: SessionPaths | None = None,
        close_gate: asyncio.Event | None = None,
        *,
        kernel: bool = True,
    ) -> None:
        self.ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
        self.kernel = FakeKernel(self, script)
        self.has_kernel = kernel
        self.services = FakeServices()
        self.programs: list[FakeExecProcess] = []
        self.command_gate: asyncio.Event | None = None
        self.start_gate: asyncio.Event | None = None
        self.start_error: Exception | None = None
        self.env = dict(env)
        self.paths = paths
        self.close_gate = close_gate
        self.end_error: EraError | None = None  # while processes are left

    async def start_kernel(self, env: Mapping[str, str]) -> None:
        """Starts the kernel as a real machine does: a failure, or the machine's end, ends all."""
        try:
            if self.start_gate is not None:
                waiting = asyncio.ensure_future(self.start_gate.wait())
                await asyncio.wait([waiting, self.ended], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            if self.start_error is not None:
                raise self.start_error
            if self.ended.done():
                raise make_start_error()
        except BaseException:
            await self.aclose()
            raise
        self.env = dict(env)
        self.has_kernel = True

    async def start_command(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdin: str | None = None,
        cwd: str | None = None,
    ) -> FakeExecProcess:
        if self.ended.done():
            raise make_start_error()
        process = FakeExecProcess(self, self.kernel.script, KernelRequest(argv[-1], env, 0, 0))
        process.stdin = stdin
        self.programs.append(process)
        if self.command_gate is not None:  # it runs, and its start is not reported yet
            await self.command_gate.wait()
        return process

    def die(self, exit_info: ExitInfo) -> None:
        """Ends the machine as a crash does."""
        if not self.ended.done():
            self.ended.set_result(exit_info)

    async def wait_gone(self) -> None:
        if self.end_error is not None:
            raise self.end_error
        await self.aclose()

    async def aclose(self, reason: str | None = None) -> None:
        self.die(ExitInfo(reason=reason or EndReason.STOPPED))
        if self.close_gate is not None:
            await self.close_gate.wait()


class FakeServices:
    """Keeps what the internet access was at each `apply_internet`."""

    def __init__(self) -> None:
        self.permissions = DEFAULT_PERMISSIONS
        self.rechecks: list[InternetAccess] = []
        self.internet_problem: str | None = None
        self.internet_gate: asyncio.Event | None = None

    async def apply_internet(self) -> None:
        self.rechecks.append(self.permissions.internet())
        if self.internet_gate is not None:
            await self.internet_gate.wait()


@dataclass
class FakeHost:
    """Opens fake machines and keeps them in `machines`; `open` raises `open_error` once.

    A test that wants something to take long has `open_gate` waited for at a start, `internet_gate`
    where a machine gets its access to the internet, `close_gate` before a machine is gone; `check`
    raises `check_error`.
    """

    script: Script = quiet
    languages: Languages = field(default_factory=lambda: Languages([make_kernelspec("alpha")]))
    isolation: Isolation = UNSANDBOXED
    enforceable: frozenset[str] = frozenset()
    open_error: Exception | None = None
    check_error: EraError | None = None
    open_gate: asyncio.Event | None = None
    internet_gate: asyncio.Event | None = None
    close_gate: asyncio.Event | None = None
    machines: list[FakeMachine] = field(default_factory=list)
    opened_paths: list[SessionPaths] = field(default_factory=list)
    opened_limits: list[Limits] = field(default_factory=list)

    async def open(
        self,
        language: str,
        paths: SessionPaths,
        limits: Limits,
        env: Mapping[str, str],
        *,
        kernel_name: str | None = None,
        kernel: bool = True,
        permissions: Permissions = DEFAULT_PERMISSIONS,
        on_late_output: Callable[[list[Output]], None] = lambda events: None,
    ) -> FakeMachine:
        await self.languages.available_kernel(language, kernel_name)
        if self.open_gate is not None:
            await self.open_gate.wait()
        if self.open_error is not None:
            error, self.open_error = self.open_error, None
            raise error
        machine = FakeMachine(self.script, env, paths, self.close_gate, kernel=kernel)
        machine.kernel.on_late_output = on_late_output
        self.machines.append(machine)
        self.opened_paths.append(paths)
        self.opened_limits.append(limits)
        machine.services.permissions = permissions
        machine.services.internet_gate = self.internet_gate
        return machine

    async def check(self) -> None:
        if self.check_error is not None:
            raise self.check_error

    async def aclose(self) -> None:
        for machine in self.machines:
            await machine.aclose(EndReason.STOPPED)


def make_start_error() -> KernelStartFailed:
    """Makes the error that `open` raises when a kernel does not start."""
    return KernelStartFailed("The kernel ended before it was ready: exit 1.")


def make_kernelspec(
    name: str, *aliases: str, reason: str | None = None, minimums: Limits = NO_MINIMUMS
) -> Kernelspec:
    """Makes the kernel of a language that runs, or that is unavailable for a reason."""
    mode: Literal["signal"] = "signal"
    return Kernelspec(
        name=name,
        language=name,
        aliases=aliases,
        directory=Path("/nowhere"),
        argv=("true",),
        # What a forked kernel lacks is not looked for again.
        entry=None if reason is None else "missing:main",
        preload=(),
        env={},
        interrupt_mode=mode,
        transport="ipc",
        extension=".txt",
        capabilities=(),
        unavailable_reason=reason,
        minimums=minimums,
    )

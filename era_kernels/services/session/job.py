"""A job is what a session was given to execute, from its submission to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from era_kernels.kernels.control_client import ControlClient
from era_kernels.kernels.machine import Machine
from era_kernels.models import (
    ExecSubmission,
    ExecutionEnd,
    InterruptStep,
    Output,
    Submission,
)
from era_kernels.services.executions.last_events import Timing
from era_kernels.services.executions.live_execution import LiveExecution

S = TypeVar("S", bound=Submission | ExecSubmission)


@dataclass(frozen=True, slots=True)
class JobProcess:
    """The process that has a job's execution: how to follow, to interrupt and to end it.

    `events` yields batches of output, at the end of the last one an `ExecutionEnd`; `interrupt`
    ends this execution alone, and returns the steps that were taken; `killed_end` returns how the
    execution ended after `kill`, when its events are not heard any more. Both take the reason.
    """

    events: Callable[[], AsyncGenerator[list[Output | ExecutionEnd], None]]
    interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]]
    kill: Callable[[str], Awaitable[None]]
    killed_end: Callable[[str], ExecutionEnd]
    control: ControlClient | None = None  # for input, stack and variables
    notices: tuple[str, ...] = ()  # what the server has to tell with this execution


class Job(Generic[S]):
    """Knows how far a submission has come, and its execution once the log of that is open.

    `started` is set when a process has it or never will; `released` when it is done with the
    machine and its changes of the workspace are recorded; `done` when its turn is over.
    """

    def __init__(
        self,
        submission: S,
        timeout: float,
        run: Callable[[Job[S]], Awaitable[None]],
        size: int = 0,
    ) -> None:
        """`run` runs the job to its end, when it is the job's turn.

        `timeout` is that of its process, in seconds: to wait and to start do not count. `size` is
        how many bytes of memory are counted for the submission.
        """
        self.submission: S = submission
        self.timeout = timeout
        self.size = size
        self.submitted_at = time.monotonic()
        self.execution: LiveExecution | None = None
        self.process: JobProcess | None = None
        self.has_machine = False  # the session's machine was given to it
        self.started = asyncio.Event()
        self.released = asyncio.Event()
        self.done = asyncio.Event()
        self._run: Callable[[Job[S]], Awaitable[None]] = run
        self._open_task: asyncio.Task[LiveExecution] | None = None

    @property
    def is_over(self) -> bool:
        """True when callers know of its end already, though its turn is not over yet."""
        return self.execution is not None and self.execution.done_event is not None

    def set_position(self, position: int) -> None:
        """Tells its callers how many others are before it."""
        if self.execution is not None:
            self.execution.set_position(position)

    async def run(self) -> None:
        """Runs the job to its end: it is its turn."""
        await self._run(self)

    async def open(self, opening: Coroutine[Any, Any, LiveExecution]) -> LiveExecution:
        """Returns the execution when its log is open; that goes on if the caller is cancelled."""
        self._open_task = asyncio.create_task(opening)
        return await asyncio.shield(self._open_task)

    async def wait_open(self) -> LiveExecution | None:
        """Returns the execution when its log is open; None when that failed, or it has ended."""
        assert self._open_task is not None
        await asyncio.wait([self._open_task])
        execution = self.execution
        return None if execution is None or execution.finished.is_set() else execution

    # ------------------------------------------------------------ how far it has come

    def attach_execution(self, execution: LiveExecution) -> None:
        """Takes the execution, whose log is open."""
        self.execution = execution

    def take_machine(self) -> None:
        """Notes that the session's machine was given to it."""
        self.has_machine = True

    def attach_process(self, process: JobProcess) -> None:
        """Takes the process that has the execution."""
        self.process = process
        self.started.set()

    def end(self) -> None:
        """Notes that nothing happens any more."""
        self.started.set()
        self.released.set()
        # A reference cycle keeps this object until the next full GC: drop its large strings.
        self.submission = replace(self.submission, env={}, **_NO_TEXTS[type(self.submission)])


_NO_TEXTS: dict[type, dict[str, Any]] = {
    Submission: {"files": {}, "update_data": None},
    ExecSubmission: {"stdin": None},
}


class Strategy(Protocol[S]):
    """Names what differs between code on the session's kernel and a command beside it."""

    needs_kernel: bool  # it runs on the kernel, and has the workspace for itself

    def begin_timing(self, job: Job[S]) -> Timing:
        """Returns the times of a job whose turn it is."""

    def cancelled_end(self) -> ExecutionEnd:
        """Returns the end of an execution that was cancelled before a process had it."""

    async def prepare(self, job: Job[S]) -> None:
        """Does what must be done before there is a machine. Raises errors of the domain."""

    async def make_process(
        self, job: Job[S], machine: Machine, env: Mapping[str, str]
    ) -> JobProcess:
        """Returns the process for the job. Raises errors of the domain.

        A command starts here; a kernel gets the code when `events` is iterated.
        """

    def on_end(self, end: ExecutionEnd | None) -> None:
        """Notes how the process ended the execution; None for a fault of the server."""

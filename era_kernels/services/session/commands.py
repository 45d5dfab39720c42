"""Runs commands beside a session's queue, as executions in the sandbox of its kernel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import EraError, QueueFull
from era_kernels.kernels.exec_process import ExecProcess, FailedExec
from era_kernels.kernels.machine import Machine
from era_kernels.models import (
    NO_FILES_CHANGED,
    ExecSubmission,
    ExecutionEnd,
    InterruptStep,
    Session,
)
from era_kernels.services.capacity import RETRY_AFTER_SECONDS
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.notices import explain_end
from era_kernels.services.executions.outcome import Timing, cancelled_before_start, session_closed
from era_kernels.services.session.cancellation import Cancellation
from era_kernels.services.session.execution_finisher import ExecutionFinisher
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.pump import pump_command
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace import SessionWorkspace

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class RunningCommand:
    """A command from its submission to its end.

    `started` is set when its process runs or never will; `released` when the command is done with
    the machine and has recorded its changes of the workspace.
    """

    submission: ExecSubmission
    timeout: float
    open_task: asyncio.Task[LiveExecution] | None = None
    run_task: asyncio.Task[None] | None = None
    process: ExecProcess | FailedExec | None = None
    cancellation: Cancellation = field(init=False)
    has_machine: bool = False  # the session's machine was given to it
    started: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


class CommandRunner:
    """Runs the commands of one session, at once: none waits for another command or for a run."""

    def __init__(
        self,
        state: SessionState,
        context: ServiceContext,
        workspace: SessionWorkspace,
        session_machine: SessionMachine,
        borrower: Hashable,
    ) -> None:
        """Takes `borrower`, by which the session is counted against max_kernels."""
        self._state = state
        self._context = context
        self._workspace = workspace
        self._borrower = borrower
        self._session_machine = session_machine
        self._finisher = ExecutionFinisher(context, is_stored=state.is_stored)
        self._background = BackgroundTasks(expected_errors=(EraError,))
        self._commands: set[RunningCommand] = set()
        self.idle_since = time.monotonic()

    def __len__(self) -> int:
        return len(self._commands)

    async def submit(self, submission: ExecSubmission) -> LiveExecution:
        """Starts a command; returns when its execution's log is open.

        The command goes on when the caller is cancelled. Raises InvalidRequest (timeout),
        InvalidPath (cwd), QueueFull, AtCapacity, StorageFailed, SessionNotFound.
        """
        session, limits = self._state.session, self._context.service_limits
        timeout = limits.run_timeout(submission, session.default_timeout)
        if submission.cwd is not None:
            await self._context.files.check_directory(session.directory, submission.cwd)
            self._state.check_open()
        if len(self) >= max(1, limits.max_queue):
            raise QueueFull(
                f"{len(self)} programs run beside this session's queue already.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._context.kernel_limiter.acquire(self._borrower)
        command = RunningCommand(submission, timeout)
        command.cancellation = Cancellation(lambda: _cancel(command))
        self._commands.add(command)
        command.open_task = asyncio.create_task(self._open_execution(command))
        command.run_task = asyncio.create_task(self._run_and_release(command))
        return await asyncio.shield(command.open_task)

    @property
    def commands_with_machine(self) -> list[RunningCommand]:
        """The commands that have the machine; those that wait for a sandbox are not among them."""
        return [command for command in self._commands if command.has_machine]

    async def wait_idle(self) -> None:
        """Waits until no command is left."""
        while self._commands:
            tasks = [command.run_task for command in self._commands]
            await asyncio.wait([task for task in tasks if task is not None])

    async def _open_execution(self, command: RunningCommand) -> LiveExecution:
        execution = await self._context.executions.open(
            self._state.session, command.submission.code, stored=self._state.is_stored
        )
        execution.interrupt, execution.is_command = command.cancellation, True
        command.cancellation.finished = execution.finished
        return execution

    async def _run_and_release(self, command: RunningCommand) -> None:
        assert command.open_task is not None
        try:
            await asyncio.wait([command.open_task])
            if not command.open_task.cancelled() and command.open_task.exception() is None:
                await self._run_to_end(command, command.open_task.result())
        except Exception:
            extra = {"session": self._state.session.id}
            log.exception("a program failed inside the server", extra=extra)
        finally:
            self._commands.discard(command)
            # A reference cycle keeps this object until the next full GC: drop its large strings.
            command.submission = replace(command.submission, stdin=None, env={})
            self.idle_since = time.monotonic()
            command.started.set()
            command.released.set()
            self._context.kernel_limiter.release(self._borrower)

    async def _run_to_end(self, command: RunningCommand, execution: LiveExecution) -> None:
        timing, files_changed = Timing(), NO_FILES_CHANGED
        try:
            end = await self._try_execute(command, execution, timing)
            if command.has_machine:
                files_changed = await self._workspace.after_run(execution)
                command.released.set()
                await self._workspace.cleanup(execution)
            session = self._state.session
            await self._finisher.finish(
                execution, end, timing, session, command.timeout, files_changed
            )
        except Exception as problem:
            session = self._state.session
            await self._finisher.abort(execution, problem, self._failed_end(), session)
            raise
        if self._state.is_stored and self._state.closed_with is None:
            await self._context.executions.trim(self._state.session)

    async def _try_execute(
        self, command: RunningCommand, execution: LiveExecution, timing: Timing
    ) -> ExecutionEnd:
        self._context.executions.start(execution)
        try:
            return await self._execute(command, execution, timing)
        except EraError as problem:
            if self._state.closed_with is not None:
                return session_closed(self._state.closed_with[0])
            execution.error = problem
            return self._failed_end()

    async def _execute(
        self, command: RunningCommand, execution: LiveExecution, timing: Timing
    ) -> ExecutionEnd:
        submission, asked_at = command.submission, time.monotonic()
        env = self._context.kernel_env(self._state.session, submission.base_url)
        acquired = await self._wait_for_sandbox(command, env)
        if acquired is None:
            return cancelled_before_start("preserved")
        machine, timing.started_from = acquired
        await self._workspace.before_run(exclusive=False)
        if command.cancellation.requested.is_set():
            return cancelled_before_start("preserved")
        environment = {**submission.env, **env}
        process = await machine.start_command(
            submission.argv, environment, submission.stdin, submission.cwd
        )
        command.process, command.cancellation.interrupt = process, process.interrupt
        command.started.set()
        began_at = time.monotonic()
        timing.start = began_at - asked_at
        max_bytes = self._context.service_limits.max_execution_output
        try:
            end = await pump_command(execution, process, command.timeout, max_bytes)
            limits = self._context.enforced_limits(self._state.session)
            return explain_end(end, execution.recent.last_stderr, limits)
        finally:
            timing.execution = time.monotonic() - began_at

    async def _wait_for_sandbox(
        self, command: RunningCommand, env: Mapping[str, str]
    ) -> tuple[Machine, str] | None:
        """Returns the machine and `started_from`, or None when the command is cancelled.

        The start of the sandbox goes on then, for the next command.
        """
        acquire_task = self._background.spawn(self._acquire_sandbox(command, env))
        cancel_wait = asyncio.create_task(command.cancellation.requested.wait())
        try:
            await asyncio.wait([acquire_task, cancel_wait], return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancel_wait.cancel()
        return acquire_task.result() if acquire_task.done() else None

    async def _acquire_sandbox(
        self, command: RunningCommand, env: Mapping[str, str]
    ) -> tuple[Machine, str]:
        with self._context.kernel_limiter.reserved(self._borrower):
            acquired = await self._session_machine.acquire_sandbox(env)
        command.has_machine = not command.cancellation.requested.is_set()
        return acquired

    def _failed_end(self) -> ExecutionEnd:
        return ExecutionEnd(1, state="preserved" if self._session_machine.is_alive else "lost")


async def has_run(context: ServiceContext, session: Session) -> bool:
    """Returns True if a kernel or a command has ever run in the session."""
    if session.kernel_generation:
        return True
    _, total = await context.executions.list_executions(session.id, limit=1)
    return total > 0


async def _cancel(command: RunningCommand) -> Sequence[InterruptStep] | None:
    """Keeps the command from starting; interrupts its process if that was just being started.

    Returns the steps of that interrupt, None when there was no process.
    """
    await command.started.wait()
    return None if command.process is None else await command.process.interrupt()

"""Runs a queued run on its session's kernel and finishes its execution."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from era_kernels.errors import EraError
from era_kernels.models import NO_FILES_CHANGED, ExecutionEnd, FilesChanged, KernelRequest
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.notices import explain_end
from era_kernels.services.executions.outcome import Timing, cancelled_before_start, session_closed
from era_kernels.services.session.execution_finisher import ExecutionFinisher
from era_kernels.services.session.lost_variables import LostVariables
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.pump import pump_kernel
from era_kernels.services.session.queue import QueuedRun
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace import SessionWorkspace

log = logging.getLogger(__name__)


class KernelRunner:
    """Runs the queued runs of one session on its kernel, one at a time."""

    def __init__(
        self,
        state: SessionState,
        context: ServiceContext,
        workspace: SessionWorkspace,
        session_machine: SessionMachine,
        lost_variables: LostVariables,
        reserve: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Takes `reserve`, a context that keeps the session counted against max_kernels."""
        self._state = state
        self._context = context
        self._workspace = workspace
        self._session_machine = session_machine
        self._lost_variables = lost_variables
        self._finisher = ExecutionFinisher(context, is_stored=state.is_stored)
        self._reserve = reserve
        # Starts of kernels; they go on when the run that waited for them is cancelled.
        self._start_tasks: set[asyncio.Task[None]] = set()
        self._run_count = 0

    async def run(self, queued_run: QueuedRun, execution: LiveExecution) -> None:
        """Runs a queued run and publishes its end.

        A failure in the server ends the run, and is raised.
        """
        timing = self._timing(queued_run)
        files_changed = NO_FILES_CHANGED
        try:
            if self._state.closed_with is not None:
                reason, execution.error = self._state.closed_with
                end = session_closed(reason)
            elif queued_run.cancellation.requested.is_set():
                end = self._cancelled_end()
            else:
                end = await self._try_execute(queued_run, execution, timing)
                if queued_run.has_machine:
                    files_changed = await self._workspace.after_run(execution)
                    await self._workspace.cleanup(execution)
            await self._finish(queued_run, execution, end, timing, files_changed)
        except Exception as problem:
            await self.abort(queued_run, execution, problem)
            raise

    async def finish_cancelled(self, queued_run: QueuedRun, execution: LiveExecution) -> None:
        """Publishes the end of a run that was removed from the queue. Raises as `run` does."""
        try:
            await self._finish(
                queued_run, execution, self._cancelled_end(), self._timing(queued_run)
            )
        except Exception as problem:
            await self.abort(queued_run, execution, problem)
            raise

    async def _finish(
        self,
        queued_run: QueuedRun,
        execution: LiveExecution,
        end: ExecutionEnd,
        timing: Timing,
        files_changed: FilesChanged = NO_FILES_CHANGED,
    ) -> None:
        session = self._state.session
        self._release_key(queued_run, execution, execution.error)
        await self._finisher.finish(
            execution, end, timing, session, queued_run.timeout, files_changed
        )
        if self._state.is_stored and self._state.closed_with is None:
            await self._context.executions.trim(session)

    def _release_key(
        self, queued_run: QueuedRun, execution: LiveExecution, problem: Exception | None
    ) -> None:
        """Frees the idempotency key of a run that failed before its kernel had it.

        The caller may repeat the run then, since its code did not run.
        """
        idempotency_key, had_kernel = (
            queued_run.submission.idempotency,
            queued_run.cancellation.interrupt is not None,
        )
        if idempotency_key is not None and problem is not None and not had_kernel:
            self._context.executions.release_key(execution)

    def _timing(self, queued_run: QueuedRun) -> Timing:
        return Timing(
            queued=time.monotonic() - queued_run.queued_at,
            started_from="live" if self._session_machine.has_kernel else "fresh",
        )

    async def abort(
        self, queued_run: QueuedRun, execution: LiveExecution, problem: Exception
    ) -> None:
        """Ends a run because something failed in the server, unless it has ended."""
        self._release_key(queued_run, execution, problem)
        await self._finisher.abort(execution, problem, self._failed_end(), self._state.session)

    async def _try_execute(
        self, queued_run: QueuedRun, execution: LiveExecution, timing: Timing
    ) -> ExecutionEnd:
        self._context.executions.start(execution)
        try:
            return await self._execute(queued_run, execution, timing)
        except EraError as problem:
            if self._state.closed_with is not None:
                return session_closed(self._state.closed_with[0])
            execution.error = problem
            return self._failed_end()

    async def _execute(
        self, queued_run: QueuedRun, execution: LiveExecution, timing: Timing
    ) -> ExecutionEnd:
        submission = queued_run.submission
        if submission.update_data:
            await self._workspace.update_data(submission.update_data)
        env = self._context.kernel_env(self._state.session, submission.base_url)
        asked_at = time.monotonic()
        if not await self._wait_for_kernel(queued_run, env):
            return self._cancelled_end()
        machine, timing.started_from = await self._session_machine.acquire(env)
        queued_run.has_machine = True
        timing.start = time.monotonic() - asked_at
        await self._workspace.before_run(exclusive=True)
        if queued_run.cancellation.requested.is_set():
            return self._cancelled_end()
        self._run_count += 1
        request = KernelRequest(
            submission.code,
            {**submission.env, **env},
            queued_run.timeout,
            self._run_count,
            submission.ends_program,
        )
        queued_run.cancellation.interrupt = partial(machine.kernel.escalate_interrupt, request)
        timing.notices = self._lost_variables.begin_run(machine)
        began_at, end = time.monotonic(), None
        try:
            end = explain_end(
                await pump_kernel(
                    execution, machine, request, self._context.service_limits.max_execution_output
                ),
                execution.recent.last_stderr,
                self._context.enforced_limits(self._state.session),
            )
            return end
        finally:
            self._lost_variables.end_run(end)
            timing.execution = time.monotonic() - began_at

    async def _wait_for_kernel(self, queued_run: QueuedRun, env: Mapping[str, str]) -> bool:
        """Waits until the kernel has started; returns False when the run is cancelled first.

        The start goes on then, for the next run.
        """
        if self._session_machine.has_kernel:
            return True
        start_task = asyncio.create_task(self._start_kernel(env))
        self._start_tasks.add(start_task)
        start_task.add_done_callback(self._start_tasks.discard)
        cancel_wait = asyncio.create_task(queued_run.cancellation.requested.wait())
        try:
            await asyncio.wait([start_task, cancel_wait], return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancel_wait.cancel()
        if queued_run.cancellation.requested.is_set():
            start_task.add_done_callback(_log_failed_start)
            return False
        start_task.result()  # raises what kept the kernel from starting
        return True

    async def _start_kernel(self, env: Mapping[str, str]) -> None:
        with self._reserve():
            await self._session_machine.ensure_started(env)

    def _cancelled_end(self) -> ExecutionEnd:
        """Returns the end of a run that was cancelled before its kernel had it.

        Such a run costs no variables.
        """
        has_kernel = self._session_machine.has_kernel or self._session_machine.is_starting
        return cancelled_before_start("preserved" if has_kernel else "lost")

    def _failed_end(self) -> ExecutionEnd:
        return ExecutionEnd(1, state="preserved" if self._session_machine.is_alive else "lost")


def _log_failed_start(start_task: asyncio.Task[None]) -> None:
    """Logs an unexpected failure of a start that no run waits for any more.

    The next run starts the kernel again, and gets the error if that fails too.
    """
    problem = None if start_task.cancelled() else start_task.exception()
    if problem is not None and not isinstance(problem, EraError):
        log.error("a kernel could not be started", exc_info=problem)

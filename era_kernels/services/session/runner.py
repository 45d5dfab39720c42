"""Runs one job of a session to its end: on the kernel, or as a command beside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from typing import Generic

from era_kernels.errors import EraError
from era_kernels.models import NO_FILES_CHANGED, ExecutionEnd, FilesChanged
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.notices import explain_end
from era_kernels.services.executions.outcome import Timing, session_closed
from era_kernels.services.session.execution_finisher import ExecutionFinisher
from era_kernels.services.session.job import Job, S, Strategy
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.pump import pump
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace import SessionWorkspace

log = logging.getLogger(__name__)


class JobRunner(Generic[S]):
    """Runs the jobs of one session that have one strategy."""

    def __init__(
        self,
        state: SessionState,
        context: ServiceContext,
        workspace: SessionWorkspace,
        session_machine: SessionMachine,
        strategy: Strategy[S],
        borrower: Hashable,
    ) -> None:
        """Takes `borrower`, by which the session is counted against max_kernels."""
        self._state = state
        self._context = context
        self._workspace = workspace
        self._session_machine = session_machine
        self._strategy: Strategy[S] = strategy
        self._borrower = borrower
        self._finisher = ExecutionFinisher(context, is_stored=state.is_stored)

    async def run(self, job: Job[S]) -> None:
        """Runs a job as soon as its log is open; never raises, but for cancellation."""
        try:
            execution = await job.wait_open()
            if execution is not None:
                await self._run_to_end(job, execution)
        except Exception:
            extra = {"session": self._state.session.id}
            log.exception("a run failed inside the server", extra=extra)
        finally:
            job.end()
            self._context.kernel_limiter.release(self._borrower)

    async def finish_cancelled(self, job: Job[S], execution: LiveExecution) -> None:
        """Publishes the end of a job that never has its turn.

        A failure in the server ends the execution, and is raised.
        """
        try:
            timing = self._strategy.begin_timing(job)
            await self._finish(job, execution, self._strategy.cancelled_end(), timing)
        except Exception as problem:
            await self.abort(job, execution, problem)
            raise
        finally:
            job.end()
            self._context.kernel_limiter.release(self._borrower)

    async def abort(self, job: Job[S], execution: LiveExecution, problem: Exception) -> None:
        """Ends an execution because something failed in the server, unless it has ended."""
        self._release_key(job, execution, problem)
        await self._finisher.abort(execution, problem, self._failed_end(), self._state.session)

    async def _run_to_end(self, job: Job[S], execution: LiveExecution) -> None:
        timing, files_changed = self._strategy.begin_timing(job), NO_FILES_CHANGED
        try:
            end = await self._try_execute(job, execution, timing)
            if job.has_machine:
                files_changed = await self._workspace.after_run(execution)
                job.released.set()
                await self._reap(execution)
            await self._finish(job, execution, end, timing, files_changed)
        except Exception as problem:
            await self.abort(job, execution, problem)
            raise

    async def _try_execute(
        self, job: Job[S], execution: LiveExecution, timing: Timing
    ) -> ExecutionEnd:
        if self._state.closed_with is not None:
            reason, closed_error = self._state.closed_with
            execution.fail(closed_error)
            return session_closed(reason)
        if execution.interrupt.requested.is_set():
            return self._strategy.cancelled_end()
        self._context.executions.start(execution)
        try:
            return await self._execute(job, execution, timing)
        except EraError as problem:
            if self._state.closed_with is not None:
                return session_closed(self._state.closed_with[0])
            execution.fail(problem)
            return self._failed_end()

    async def _execute(self, job: Job[S], execution: LiveExecution, timing: Timing) -> ExecutionEnd:
        session, cancelled = self._state.session, execution.interrupt.requested
        await self._strategy.prepare(job)
        env = self._context.kernel_env(session, job.submission.base_url)
        needs_kernel, asked_at = self._strategy.needs_kernel, time.monotonic()
        acquired = await self._session_machine.acquire(env, cancelled, with_kernel=needs_kernel)
        if acquired is None:
            return self._strategy.cancelled_end()
        machine, started_from = acquired
        job.take_machine()
        timing.machine_acquired(time.monotonic() - asked_at, started_from)
        await self._workspace.before_run(exclusive=needs_kernel)
        if cancelled.is_set():
            return self._strategy.cancelled_end()
        process = await self._strategy.start(job, machine, {**job.submission.env, **env})
        execution.interrupt.attach(process.interrupt)
        job.attach_process(process)
        began_at, end = time.monotonic(), None
        try:
            end = explain_end(
                await pump(execution, process, self._context.service_limits.max_execution_output),
                execution.recent.last_stderr,
                self._context.enforced_limits(self._state.session),
            )
            return end
        finally:
            self._strategy.on_end(end)
            timing.executed(time.monotonic() - began_at, process.notices)

    async def _reap(self, execution: LiveExecution) -> None:
        """Removes what an ended machine left behind, if the session is not persistent.

        Its files are removed then, too. A failure is that of the execution.
        """
        if self._state.session.persistent or self._state.is_deleted:
            return
        try:
            await self._session_machine.reap()
        except EraError as problem:
            execution.fail(problem)

    async def _finish(
        self,
        job: Job[S],
        execution: LiveExecution,
        end: ExecutionEnd,
        timing: Timing,
        files_changed: FilesChanged = NO_FILES_CHANGED,
    ) -> None:
        session = self._state.session
        self._release_key(job, execution, execution.error)
        await self._finisher.finish(execution, end, timing, session, job.timeout, files_changed)
        if self._state.is_stored and self._state.closed_with is None:
            await self._context.executions.trim(session)

    def _release_key(
        self, job: Job[S], execution: LiveExecution, problem: Exception | None
    ) -> None:
        """Frees the idempotency key of a run that failed before its kernel had it.

        The caller may repeat the run then, since its code did not run.
        """
        has_key = getattr(job.submission, "idempotency", None) is not None
        if has_key and problem is not None and not execution.interrupt.has_process:
            self._context.executions.release_key(execution)

    def _failed_end(self) -> ExecutionEnd:
        return ExecutionEnd(1, state="preserved" if self._session_machine.is_alive else "lost")

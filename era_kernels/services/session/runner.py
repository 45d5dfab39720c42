"""Runs one job of a session to its end: on the kernel, or as a command beside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import aclosing, nullcontext
from typing import Generic

from era_kernels.errors import EraError, StorageFailed
from era_kernels.models import (
    NO_FILES_CHANGED,
    EndReason,
    Event,
    ExecutionEnd,
    FilesChanged,
    InputRequest,
    Stderr,
    format_size,
    server_line,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.last_events import (
    Timing,
    done_event,
    error_event,
    metric_label,
    session_closed,
)
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.executions.notices import (
    LOSES_FILES_TOO,
    LOSES_NOTHING,
    LOSES_VARIABLES,
    describe_end,
    explain_end,
)
from era_kernels.services.session.job import Job, JobProcess, S, Strategy
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.session_values import SessionValues
from era_kernels.services.session.workspace import SessionWorkspace
from era_kernels.services.submission_memory import memory_size

log = logging.getLogger(__name__)

OUTPUT_LOST = "the output of the run could not be kept"


async def pump(execution: LiveExecution, process: JobProcess, max_bytes: int) -> ExecutionEnd:
    """Publishes the events of the process, log first, and returns how it ended.

    Kills a process whose log grows past `max_bytes`, and one whose log cannot be written: code must
    not go on when its output cannot be seen.
    """
    control = process.control
    try:
        with nullcontext() if control is None else execution.attach(control):
            async with aclosing(process.events()) as batches:
                async for batch in batches:
                    last = batch[-1]
                    events = [
                        event
                        for event in batch
                        if not isinstance(event, ExecutionEnd)
                        and (not isinstance(event, InputRequest) or execution.stdin.offer(event))
                    ]
                    if events:
                        await execution.publish(events)
                    if isinstance(last, ExecutionEnd):
                        return last
                    if execution.log.size > max_bytes:
                        await process.kill(f"{EndReason.OUTPUT_LIMIT} {format_size(max_bytes)}")
                    del batch, last, events  # they may be large, and the next may come in an hour
        raise RuntimeError("the events of a run ended without an end")
    except Exception as problem:
        await process.kill(OUTPUT_LOST)
        if not isinstance(problem, StorageFailed):
            raise
        execution.fail(problem)
        return process.killed_end(OUTPUT_LOST)


class JobRunner(Generic[S]):
    """Runs the jobs of one session that have one strategy, and releases what each has acquired."""

    def __init__(
        self,
        values: SessionValues,
        context: ServiceContext,
        workspace: SessionWorkspace,
        session_machine: SessionMachine,
        strategy: Strategy[S],
        holder: Hashable,
    ) -> None:
        """Takes `holder`, by which the session is counted wherever all sessions share a bound."""
        self._values = values
        self._context = context
        self._workspace = workspace
        self._session_machine = session_machine
        self._strategy: Strategy[S] = strategy
        self._holder = holder

    def accept(
        self, submission: S, timeout: float, run: Callable[[Job[S]], Awaitable[None]]
    ) -> Job[S]:
        """Returns a job, which is counted from here on until its end; the arguments are the job's.

        Raises AtCapacity, and QueueFull where the session holds too much memory.
        """
        size = memory_size(submission)
        self._context.kernel_limiter.acquire(self._holder)
        try:
            self._context.submission_memory.acquire(self._holder, size)
        except EraError:
            self._context.kernel_limiter.release(self._holder)
            raise
        return Job(submission, timeout, run, size)

    def _end(self, job: Job[S]) -> None:
        job.end()
        self._context.submission_memory.release(self._holder, job.size)
        self._context.kernel_limiter.release(self._holder)

    async def run(self, job: Job[S]) -> None:
        """Runs a job as soon as its log is open; never raises, but for cancellation."""
        try:
            execution = await job.wait_open()
            if execution is not None:
                await self._run_to_end(job, execution)
        except Exception:
            extra = {"session": self._values.session.id}
            log.exception("a run failed inside the server", extra=extra)
        finally:
            self._end(job)

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
            self._end(job)

    async def abort(self, job: Job[S], execution: LiveExecution, problem: Exception) -> None:
        """Ends an execution because something failed in the server, unless it has ended."""
        if execution.finished.is_set():
            self._release_key(job, execution, problem)
            return
        execution.fail(_public_error(problem))
        await self._finish(job, execution, self._failed_end(), Timing())

    async def _run_to_end(self, job: Job[S], execution: LiveExecution) -> None:
        timing, files_changed = self._strategy.begin_timing(job), NO_FILES_CHANGED
        try:
            end = await self._try_execute(job, execution, timing)
            if job.has_machine:
                files_changed = await self._workspace.after_run(execution)
                job.released.set()
                if not self._session_machine.is_alive:
                    await self._reap(execution)
            await self._finish(job, execution, end, timing, files_changed)
        except Exception as problem:
            await self.abort(job, execution, problem)
            raise

    async def _try_execute(
        self, job: Job[S], execution: LiveExecution, timing: Timing
    ) -> ExecutionEnd:
        if self._values.closed_with is not None:
            reason, closed_error = self._values.closed_with
            execution.fail(closed_error)
            return session_closed(reason)
        if execution.interrupt.requested.is_set():
            return self._strategy.cancelled_end()
        self._context.executions.start(execution)
        try:
            return await self._execute(job, execution, timing)
        except EraError as problem:
            if self._values.closed_with is not None:
                return session_closed(self._values.closed_with[0])
            execution.fail(problem)
            return self._failed_end()

    async def _execute(self, job: Job[S], execution: LiveExecution, timing: Timing) -> ExecutionEnd:
        session, cancelled = self._values.session, execution.interrupt.requested
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
        process = await self._strategy.make_process(job, machine, {**job.submission.env, **env})
        execution.interrupt.attach(process.interrupt)
        job.attach_process(process)
        began_at, end = time.monotonic(), None
        max_bytes = self._context.service_limits.max_execution_output
        try:
            end = await pump(execution, process, max_bytes)
            last_words = execution.recent.last_stderr
            if last_words or end.exception is not None:
                end = explain_end(end, last_words, self._context.enforced_limits(session))
            return end
        finally:
            self._strategy.on_end(end)
            timing.executed(time.monotonic() - began_at, process.notices)

    async def _reap(self, execution: LiveExecution) -> None:
        """Removes what an ended machine left behind, if the session is not persistent.

        Its files are removed then, too. A failure is that of the execution.
        """
        if self._values.session.persistent or self._values.is_deleted:
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
        """Publishes the end of an execution, even where it cannot be written to the log."""
        session = self._values.session
        self._release_key(job, execution, execution.error)
        failure = error_event(end, job.timeout, execution.error)
        done = done_event(
            end,
            timing,
            session=session,
            execution_id=execution.id,
            files_changed=files_changed,
            data=session.data,
        )
        last: tuple[Event | None, ...] = (self._stderr_line(job, execution, end), failure, done)
        events = [event for event in last if event is not None]
        try:
            await execution.publish(events)
        except Exception as problem:
            log.warning("the end of a run was not logged", exc_info=problem)
            execution.fail(_public_error(problem))
            execution.publish_unlogged(events)
        outcome, output_bytes = metric_label(end, failure), execution.log.text_bytes
        self._context.metrics.run_ended(session.language, outcome, timing, output_bytes)
        await self._context.executions.finish(execution, done.exit_code, done.cause)
        if self._values.is_stored and self._values.closed_with is None:
            await self._context.executions.trim(session)

    def _stderr_line(
        self, job: Job[S], execution: LiveExecution, end: ExecutionEnd
    ) -> Stderr | None:
        """Returns what a person is told on stderr; nothing where an error of the API tells it."""
        says_nothing = end.exit_info is None and end.shortage is None and not end.timed_out
        if says_nothing or execution.error is not None:
            return None
        session = self._values.session
        losses = LOSES_VARIABLES if session.persistent else LOSES_FILES_TOO
        if execution.is_command or not self._values.is_stored:
            losses = LOSES_NOTHING  # nothing of a throw-away session is kept anyway
        limits = self._context.enforced_limits(session)
        text = describe_end(end, limits, job.timeout, losses)
        return None if text is None else server_line(text, execution.recent.last_stderr)

    def _release_key(
        self, job: Job[S], execution: LiveExecution, problem: Exception | None
    ) -> None:
        """Frees the idempotency key of a run that failed before its kernel had it.

        The caller may repeat the run then, since its code did not run.
        """
        has_key = getattr(job.submission, "idempotency", None) is not None
        if has_key and problem is not None and not execution.interrupt.had_process:
            self._context.executions.release_key(execution)

    def _failed_end(self) -> ExecutionEnd:
        return ExecutionEnd(1, state="preserved" if self._session_machine.is_alive else "lost")


def _public_error(problem: Exception) -> EraError:
    """Returns the error that callers get; nothing of a foreign exception's text is in it."""
    if isinstance(problem, EraError):
        return problem
    return EraError("The run failed inside the server; the server's log tells more.")

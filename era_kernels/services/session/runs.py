"""Takes code for the kernel of a session, as jobs in the session's queue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from era_kernels.errors import SessionBusy, StorageFailed
from era_kernels.kernels.machine import Machine
from era_kernels.models import (
    ExecutionEnd,
    KernelRequest,
    Queued,
    Submission,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.last_events import (
    Timing,
    cancelled_before_start,
    machine_ended,
)
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.session.job import Job, JobProcess
from era_kernels.services.session.lost_variables import LostVariables
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.queue import RunQueue
from era_kernels.services.session.runner import JobRunner
from era_kernels.services.session.session_values import SessionValues
from era_kernels.services.session.workspace import SessionWorkspace

_BUSY_HINT = "Try again when the run has ended, or let it wait: leave out if_busy."


def kernel_process(
    machine: Machine, request: KernelRequest, notices: tuple[str, ...] = ()
) -> JobProcess:
    """Returns a request on the kernel as a process; to kill it ends the machine, too."""
    kernel = machine.kernel
    return JobProcess(
        events=partial(kernel.execute, request),
        interrupt=partial(kernel.escalate_interrupt, request),
        kill=machine.aclose,
        killed_end=lambda _: machine_ended(machine.ended.result()),
        control=kernel.control,
        notices=notices,
    )


class KernelStrategy:
    """Runs code on the session's kernel."""

    needs_kernel = True

    def __init__(
        self,
        workspace: SessionWorkspace,
        session_machine: SessionMachine,
        lost_variables: LostVariables,
    ) -> None:
        self._workspace = workspace
        self._session_machine = session_machine
        self._lost_variables = lost_variables
        self._run_count = 0

    def begin_timing(self, job: Job[Submission]) -> Timing:
        return Timing(
            queued=time.monotonic() - job.submitted_at,
            started_from="live" if self._session_machine.has_kernel else "fresh",
        )

    def cancelled_end(self) -> ExecutionEnd:
        """Returns the end of a run that its kernel never had: such a run costs no variables."""
        has_kernel = self._session_machine.has_kernel or self._session_machine.is_starting
        return cancelled_before_start("preserved" if has_kernel else "lost")

    async def prepare(self, job: Job[Submission]) -> None:
        if job.submission.update_data:
            await self._workspace.merge_data(job.submission.update_data)

    async def make_process(
        self, job: Job[Submission], machine: Machine, env: Mapping[str, str]
    ) -> JobProcess:
        self._run_count += 1
        code, ends_program = job.submission.code, job.submission.ends_program
        request = KernelRequest(code, env, job.timeout, self._run_count, ends_program)
        return kernel_process(machine, request, self._lost_variables.begin_run(machine))

    def on_end(self, end: ExecutionEnd | None) -> None:
        self._lost_variables.end_run(end)


class Runs:
    """Puts code into the queue of one session, and takes it out again when it is cancelled."""

    def __init__(
        self,
        values: SessionValues,
        context: ServiceContext,
        queue: RunQueue,
        runner: JobRunner[Submission],
    ) -> None:
        self._values = values
        self._context = context
        self._queue = queue
        self._runner = runner

    async def submit(self, submission: Submission) -> LiveExecution:
        """Queues a run; returns when its execution's log is open.

        The run goes on when the caller is cancelled. Raises InvalidRequest (timeout), SessionBusy,
        QueueFull, AtCapacity, StorageFailed, SessionNotFound.
        """
        session, limits = self._values.session, self._context.service_limits
        timeout = limits.timeout_of(submission, session.default_timeout)
        if submission.refuse_if_busy and self._queue.is_busy:
            raise SessionBusy("The session is busy.", hint=_BUSY_HINT, id=session.id)
        self._queue.check_capacity()
        job = self._runner.accept(submission, timeout, self._runner.run)
        self._queue.add(job)
        return await job.open(self._open(job))

    async def _open(self, job: Job[Submission]) -> LiveExecution:
        execution = await self._context.executions.open(
            self._values.session,
            job.submission.code,
            is_indexed=self._values.is_stored,
            idempotency=job.submission.idempotency,
            cancel_early=lambda: self._cancel_queued(job),
        )
        job.attach_execution(execution)
        if job.submission.cancel_on_disconnect:
            execution.when_abandoned(execution.interrupt)
        position = self._queue.position(job)
        if position:
            execution.set_position(position)
            try:
                await execution.publish([Queued(position)])
            except StorageFailed as problem:
                await self._runner.abort(job, execution, problem)
                raise
        return execution

    async def _cancel_queued(self, job: Job[Submission]) -> None:
        """Cancels a run that waits, unless the end of the session cancels it already."""
        if self._values.closed_with is None and job.execution and self._queue.remove(job):
            await self._runner.finish_cancelled(job, job.execution)

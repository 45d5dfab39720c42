"""Takes commands that run beside a session's queue, in the sandbox of its kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

from era_kernels.errors import QueueFull
from era_kernels.kernels.machine import Machine
from era_kernels.models import (
    ExecSubmission,
    ExecutionEnd,
    ExitInfo,
    InterruptStep,
    Session,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.last_events import Timing, cancelled_before_start
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.kernel_limiter import RETRY_AFTER_SECONDS
from era_kernels.services.session.job import Job, JobProcess
from era_kernels.services.session.runner import JobRunner
from era_kernels.services.session.session_values import SessionValues


class CommandStrategy:
    """Runs a program beside the kernel, and needs only a sandbox."""

    needs_kernel = False

    def begin_timing(self, job: Job[ExecSubmission]) -> Timing:
        return Timing()  # it did not wait

    def cancelled_end(self) -> ExecutionEnd:
        return cancelled_before_start("preserved")

    async def prepare(self, job: Job[ExecSubmission]) -> None:
        """Does nothing."""

    async def make_process(
        self, job: Job[ExecSubmission], machine: Machine, env: Mapping[str, str]
    ) -> JobProcess:
        submission = job.submission
        program = await machine.start_command(
            submission.argv, env, submission.stdin, submission.cwd
        )
        return JobProcess(
            events=partial(program.events, job.timeout),
            interrupt=program.interrupt,
            kill=program.kill,  # its machine goes on
            killed_end=_killed_end,
        )

    def on_end(self, end: ExecutionEnd | None) -> None:
        """Does nothing."""


class Commands:
    """Runs the commands of one session, at once: none waits for another command or for a run."""

    def __init__(
        self,
        values: SessionValues,
        context: ServiceContext,
        runner: JobRunner[ExecSubmission],
    ) -> None:
        self._values = values
        self._context = context
        self._runner = runner
        self._tasks: dict[Job[ExecSubmission], asyncio.Task[None]] = {}
        self.idle_since = time.monotonic()

    def __len__(self) -> int:
        return len(self._tasks)

    async def submit(self, submission: ExecSubmission) -> LiveExecution:
        """Starts a command; returns when its execution's log is open.

        The command goes on when the caller is cancelled. Raises InvalidRequest (timeout),
        InvalidPath (cwd), QueueFull, AtCapacity, StorageFailed, SessionNotFound.
        """
        session, limits = self._values.session, self._context.service_limits
        timeout = limits.timeout_of(submission, session.default_timeout)
        if submission.cwd is not None:
            await self._context.files.check_directory(session.directory, submission.cwd)
            self._values.check_open()
        if len(self) >= max(1, limits.max_queue):
            raise QueueFull(
                f"{len(self)} programs run beside this session's queue already.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        job = self._runner.accept(submission, timeout, self._run)
        self._tasks[job] = asyncio.create_task(job.run())
        return await job.open(self._open(job))

    @property
    def with_machine(self) -> list[Job[ExecSubmission]]:
        """The commands that have the machine; those that wait for a sandbox are not among them."""
        return [job for job in self._tasks if job.has_machine]

    async def wait_idle(self) -> None:
        """Waits until no command is left."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _run(self, job: Job[ExecSubmission]) -> None:
        try:
            await self._runner.run(job)
        finally:
            del self._tasks[job]
            self.idle_since = time.monotonic()

    async def _open(self, job: Job[ExecSubmission]) -> LiveExecution:
        execution = await self._context.executions.open(
            self._values.session,
            job.submission.code,
            is_indexed=self._values.is_stored,
            cancel_early=lambda: _cancel_starting(job),
            is_command=True,
            is_request=job.submission.is_request,
        )
        job.attach_execution(execution)
        return execution


def _killed_end(reason: str) -> ExecutionEnd:
    exit_info = ExitInfo(reason=reason)
    return ExecutionEnd(exit_info.exit_code, exit_info=exit_info)


async def _cancel_starting(job: Job[ExecSubmission]) -> Sequence[InterruptStep] | None:
    """Keeps the command from starting; interrupts its process if that was just being started.

    Returns the steps of that interrupt, None when there was no process.
    """
    await job.started.wait()
    return None if job.process is None else await job.process.interrupt()


async def has_run(context: ServiceContext, session: Session) -> bool:
    """Returns True if a kernel or a command has ever run in the session."""
    if session.kernel_generation:
        return True
    _, total = await context.executions.list_executions(session.id, limit=1)
    return total > 0

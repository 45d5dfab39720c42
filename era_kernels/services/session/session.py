"""A live session is an actor with a FIFO queue, and the sole owner of its machine."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial

from era_kernels.errors import EraError, SessionBusy, StorageFailed
from era_kernels.models import (
    EndReason,
    ExecSubmission,
    Queued,
    Session,
    SessionStatus,
    Submission,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.session.cancellation import Cancellation
from era_kernels.services.session.commands import CommandRunner
from era_kernels.services.session.lost_variables import LostVariables
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.machine_opener import MachineOpener
from era_kernels.services.session.queue import QueuedRun, RunQueue
from era_kernels.services.session.runner import KernelRunner
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace import SessionWorkspace
from era_kernels.services.session.workspace_tracker import WorkspaceTracker
from era_kernels.storage.workspaces import FileChange

log = logging.getLogger(__name__)

_BUSY_HINT = "Try again when the run has ended, or let it wait: leave out if_busy."


class LiveSession:
    """Runs code in one session, restarts and ends it; all calls on a session come through here."""

    def __init__(
        self, session: Session, context: ServiceContext, *, is_stored: bool = True
    ) -> None:
        self._state = SessionState(session, context.store, is_stored=is_stored)
        self._context = context
        self._borrow_count = 0
        self._tracker = WorkspaceTracker(context.workspaces, session.directory)
        lost_variables = LostVariables(self._state)
        opener = MachineOpener(self._state, context, self, lost_variables, self._on_machine_ended)
        self._session_machine = SessionMachine(opener.open, opener.start_kernel, self._clear_files)
        workspace = SessionWorkspace(self._state, self._tracker, self._session_machine)
        reserve = partial(context.kernel_limiter.reserved, self)
        self._runner = KernelRunner(
            self._state, context, workspace, self._session_machine, lost_variables, reserve
        )
        self._commands = CommandRunner(self._state, context, workspace, self._session_machine, self)
        self._queue = RunQueue(context.service_limits.max_queue, self._run_queued, self._cleanup)

    @property
    def session(self) -> Session:
        """The session's present values."""
        return self._state.session

    @property
    def status(self) -> SessionStatus:
        if self._session_machine.is_starting:
            return SessionStatus.STARTING
        if self._queue.is_busy:
            return SessionStatus.BUSY
        return SessionStatus.IDLE if self._session_machine.has_kernel else SessionStatus.STOPPED

    @property
    def run_count(self) -> int:
        """The number of runs: one is under way, the others wait."""
        return len(self._queue)

    @property
    def machine(self) -> SessionMachine:
        """What starts the session's machine, and knows the one that there is."""
        return self._session_machine

    @contextmanager
    def borrow(self) -> Iterator[None]:
        """Keeps the session in memory, and from expiring, while the context is open."""
        self._borrow_count += 1
        try:
            yield
        finally:
            self._borrow_count -= 1

    @property
    def is_evictable(self) -> bool:
        """True if nothing of the session is alive, so that it may be dropped from memory."""
        return self._session_machine.is_idle and not (
            self._queue.is_working or self._borrow_count or self._commands
        )

    @property
    def idle_since(self) -> float | None:
        """The `time.monotonic` at which the last run ended; None while something is under way."""
        if self._queue or self._borrow_count or self._commands:
            return None
        return max(self._queue.idle_since, self._commands.idle_since)

    # ------------------------------------------------------------ the queue

    async def submit(self, submission: Submission | ExecSubmission) -> LiveExecution:
        """Queues a run, or starts a command beside the queue.

        Returns when the execution's log is open. The execution goes on when the caller is
        cancelled. Raises InvalidRequest (timeout), SessionBusy, QueueFull, AtCapacity,
        StorageFailed, SessionNotFound.
        """
        self.check_open()
        if isinstance(submission, ExecSubmission):
            return await self._commands.submit(submission)
        timeout = self._context.service_limits.run_timeout(submission, self.session.default_timeout)
        if submission.refuse_if_busy and self._queue.is_busy:
            raise SessionBusy("The session is busy.", hint=_BUSY_HINT, id=self.session.id)
        self._queue.check_capacity()
        self._context.kernel_limiter.acquire(self)
        queued_run = QueuedRun(
            submission, timeout, Cancellation(lambda: self._cancel_queued(queued_run))
        )
        queued_run.open_task = asyncio.create_task(self._open_log(queued_run))
        self._queue.add(queued_run)
        return await asyncio.shield(queued_run.open_task)

    async def _open_log(self, queued_run: QueuedRun) -> LiveExecution:
        execution = await self._context.executions.open(
            self.session,
            queued_run.submission.code,
            stored=self._state.is_stored,
            idempotency=queued_run.submission.idempotency,
        )
        queued_run.execution = execution
        execution.interrupt = queued_run.cancellation
        queued_run.cancellation.finished = execution.finished
        if queued_run.submission.cancel_on_disconnect:
            execution.on_abandoned = queued_run.cancellation
        position = self._queue.position(queued_run)
        if position:
            execution.execution = dataclasses.replace(execution.execution, position=position)
            try:
                await execution.publish([Queued(position)])
            except StorageFailed as problem:
                await self._runner.abort(queued_run, execution, problem)
                raise
        return execution

    async def _cancel_queued(self, queued_run: QueuedRun) -> None:
        """Cancels a run that waits, unless the end of the session cancels it already."""
        if self.is_closed or queued_run.execution is None or not self._queue.remove(queued_run):
            return
        try:
            await self._runner.finish_cancelled(queued_run, queued_run.execution)
        finally:
            self._context.kernel_limiter.release(self)

    async def _run_queued(self, queued_run: QueuedRun) -> None:
        assert queued_run.open_task is not None
        try:
            await asyncio.wait([queued_run.open_task])
            if queued_run.execution is not None and not queued_run.execution.finished.is_set():
                await self._runner.run(queued_run, queued_run.execution)
        except Exception:
            log.exception("a run failed inside the server", extra={"session": self.session.id})
        finally:
            self._context.kernel_limiter.release(self)

    # ------------------------------------------------------------ everything else

    async def update(self, **changes: object) -> None:
        """Changes stored fields; returns when they are durable. Raises SessionNotFound."""
        if "data" not in changes:
            await self._state.update(**changes)
            return
        async with self._tracker.lock:
            await self._state.update(**changes)
            try:
                await self._tracker.write_data_file(self.session.data)
            except StorageFailed as problem:  # the file is written again before the next run
                self._warn("the data file was not written", problem)

    async def change_file(self, operation: Callable[[], Awaitable[FileChange]]) -> None:
        """Lets `operation` put or delete a file, never while `after_run` looks at the files.

        `end` waits for the operation, and none starts afterwards: the directory must not grow
        while it is removed.
        """
        async with self._tracker.lock:
            self.check_open()
            change = await self._tracker.change_file(operation)
        self._state.update_soon(
            file_count=max(0, self.session.file_count + change.count_delta),
            total_size=max(0, self.session.total_size + change.size_delta),
        )

    @asynccontextmanager
    async def frozen_files(self, *, wait_in_queue: bool) -> AsyncIterator[None]:
        """Keeps the files from being cleared while the context is open, so that they can be copied.

        With `wait_in_queue`, no run is under way meanwhile. Raises QueueFull, SessionNotFound.
        """
        async with self._queue.slot() if wait_in_queue else nullcontext():
            self.check_open()
            async with nullcontext() if self.session.persistent else self._tracker.lock:
                yield

    async def restart(self, base_url: str) -> int:
        """Starts a fresh kernel with the same files and data; returns the kernel's generation.

        Queued runs get the new kernel; so does a run whose kernel was only starting. Raises
        AtCapacity, KernelStartFailed, StorageFailed, InsufficientStorage.
        """
        self.check_open()
        # Wait only for runs on the old machine; runs that start from here on use the new one.
        runs, commands = self._queue.slots_with_machine, self._commands.commands_with_machine
        with self._context.kernel_limiter.reserved(self):
            env = self._context.kernel_env(self.session, base_url)
            await self._session_machine.stop(EndReason.RESTARTED)
            for run in runs:
                await run.done.wait()
            for command in commands:
                await command.released.wait()
            await self._session_machine.ensure_started(env)
        return self.session.kernel_generation

    async def end(self, reason: EndReason, closed_error: EraError) -> None:
        """Ends the kernel, its run, the commands and the queue.

        Afterwards every call raises `closed_error`. Raises EndUnfinished when processes are left;
        another call waits again.
        """
        if self._state.closed_with is None:
            self._state.closed_with = (reason, closed_error)
        try:
            await self._session_machine.close(*self._state.closed_with)
        finally:
            await self.wait_idle()
        await self._cleanup()
        async with self._tracker.lock:  # wait for a file that is just being put
            pass

    async def wait_idle(self) -> None:
        """Waits until no run is under way or waits, and no command runs."""
        await self._queue.wait_idle()
        await self._commands.wait_idle()

    @property
    def is_closed(self) -> bool:
        return self._state.closed_with is not None

    def check_open(self) -> None:
        """Raises the error that `end` was given."""
        self._state.check_open()

    # ------------------------------------------------------------ the machine

    def _on_machine_ended(self) -> None:
        if self._state.closed_with is None:
            self._queue.wake()

    async def _cleanup(self) -> None:
        try:
            await self._session_machine.reap()
        except EraError as problem:  # the next run tries again, and gets the error
            self._warn("the files of a kernel were not dropped", problem)

    async def _clear_files(self) -> None:
        """Removes the files of a session that is not persistent, when its machine has ended."""
        if self.session.persistent or not self._state.is_stored or self._state.is_deleted:
            return
        for command in self._commands.commands_with_machine:  # they end with the machine
            await command.released.wait()
        async with self._tracker.lock:
            await self._tracker.clear_files()
        self._state.update_soon(file_count=0, total_size=0)

    def _warn(self, message: str, problem: EraError) -> None:
        log.warning(message, extra={"session": self.session.id, "why": problem.message})

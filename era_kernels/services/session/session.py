"""A live session: an actor with a FIFO queue, sole owner of its machine."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial

from era_kernels.errors import EraError, StorageFailed
from era_kernels.kernels.machine import Machine
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
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.machine_opener import MachineOpener
from era_kernels.services.session.queue import QueuedRun, RunQueue
from era_kernels.services.session.runner import KernelRunner
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace import SessionWorkspace
from era_kernels.services.session.workspace_tracker import WorkspaceTracker
from era_kernels.storage.workspaces import Change

log = logging.getLogger(__name__)


class LiveSession:
    """Runs, restarts and ends one session; everything about it goes through here, in order."""

    def __init__(
        self, session: Session, context: ServiceContext, *, is_stored: bool = True
    ) -> None:
        self._state = SessionState(session, context.store, is_stored=is_stored)
        self._context = context
        self._borrow_count = 0
        self._tracker = WorkspaceTracker(context.workspaces, session.directory)
        opener = MachineOpener(self._state, context, self, self._on_machine_ended)
        self._session_machine = SessionMachine(opener.open, opener.start_kernel, self._clear_files)
        workspace = SessionWorkspace(self._state, self._tracker, self._session_machine)
        reserve = partial(context.kernel_limiter.reserved, self)
        self._runner = KernelRunner(self._state, context, workspace, self._session_machine, reserve)
        self._commands = CommandRunner(self._state, context, workspace, self._session_machine, self)
        self._queue = RunQueue(context.service_limits.max_queue, self._run_queued, self._cleanup)

    @property
    def session(self) -> Session:
        """Its present values."""
        return self._state.session

    @property
    def status(self) -> SessionStatus:
        if self._session_machine.is_starting:
            return SessionStatus.STARTING
        if self._queue:
            return SessionStatus.BUSY
        return SessionStatus.IDLE if self._session_machine.has_kernel else SessionStatus.STOPPED

    @property
    def run_count(self) -> int:
        """How many runs there are: one is under way, the others wait."""
        return len(self._queue)

    @property
    def ready_machine(self) -> Machine | None:
        """The machine that it has now, if any."""
        return self._session_machine.ready_machine

    @contextmanager
    def borrow(self) -> Iterator[None]:
        """As long as a call is under way, the session does not rest."""
        self._borrow_count += 1
        try:
            yield
        finally:
            self._borrow_count -= 1

    @property
    def is_evictable(self) -> bool:
        """Nothing of it is alive: it may be forgotten and read from the store again."""
        return self._session_machine.is_idle and not (
            self._queue.is_working or self._borrow_count or self._commands
        )

    @property
    def idle_since(self) -> float | None:
        """When the last run ended (monotonic); None while something is under way."""
        if self._queue or self._borrow_count or self._commands:
            return None
        return max(self._queue.idle_since, self._commands.idle_since)

    # ------------------------------------------------------------ the queue

    async def submit(self, submission: Submission | ExecSubmission) -> LiveExecution:
        """Take a place in the queue, or run beside it; answers when the execution's log is open.

        A caller that is cancelled meanwhile leaves its run behind, which goes on.
        Raises InvalidRequest (timeout), QueueFull, Capacity, StorageFailed, SessionNotFound.
        """
        self.check_open()
        if isinstance(submission, ExecSubmission):
            return await self._commands.submit(submission)
        timeout = self._context.service_limits.run_timeout(submission, self.session.default_timeout)
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
        """Cancel a run that waits, unless the session's end has taken care of it already."""
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
        """Change stored fields; the answer waits until they are durable. Raises SessionNotFound."""
        if "data" not in changes:
            await self._state.update(**changes)
            return
        async with self._tracker.lock:
            await self._state.update(**changes)
            try:
                await self._tracker.write_data_file(self.session.data)
            except StorageFailed as problem:  # it is written anew before the next run
                self._warn("the mirror of the data was not written", problem)

    async def change_file(self, operation: Callable[[], Awaitable[Change]]) -> None:
        """Let the step put or delete a file, not while a run is just being settled.

        The end of the session waits for it, and nothing begins after that: what is to be removed
        must not grow meanwhile.
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
        """For a copy of the files: none are dropped meanwhile, and in its turn no run is under way.

        Raises QueueFull, SessionNotFound.
        """
        async with self._queue.slot() if wait_in_queue else nullcontext():
            self.check_open()
            async with nullcontext() if self.session.persistent else self._tracker.lock:
                yield

    async def restart(self, base_url: str) -> int:
        """A fresh kernel with the same files and data; queued runs go on with it.

        So does a run whose kernel was only starting. Raises Capacity, KernelStartFailed,
        StorageFailed, InsufficientStorage.
        """
        self.check_open()
        # What comes meanwhile may get the next machine, and is not waited for.
        runs, commands = self._queue.with_machine, self._commands.with_machine
        with self._context.kernel_limiter.reserved(self):
            await self._session_machine.stop(EndReason.RESTARTED)
            for run in runs:
                await run.done.wait()
            for command in commands:
                await command.released.wait()
            await self._session_machine.ensure_started(self._state.kernel_env(base_url))
        return self.session.kernel_generation

    async def end(self, reason: EndReason, closed_error: EraError) -> None:
        """End the kernel, the run on it and the queue; afterwards every call raises `closed_error`."""
        if self._state.closed_with is None:
            self._state.closed_with = (reason, closed_error)
        await self._session_machine.close(*self._state.closed_with)
        await self.wait_idle()
        await self._cleanup()
        async with self._tracker.lock:  # a file that is just being put
            pass

    async def wait_idle(self) -> None:
        """Until no run is under way or waits, nor a program runs beside them."""
        await self._queue.wait_idle()
        await self._commands.wait_idle()

    @property
    def is_closed(self) -> bool:
        return self._state.closed_with is not None

    def check_open(self) -> None:
        """Raises what `end` was given."""
        self._state.check_open()

    # ------------------------------------------------------------ the machine

    def _on_machine_ended(self) -> None:
        if self._state.closed_with is None:
            self._queue.wake()

    async def _cleanup(self) -> None:
        try:
            await self._session_machine.reap()
        except EraError as problem:  # the next run tries again, and is told
            self._warn("the files of a kernel were not dropped", problem)

    async def _clear_files(self) -> None:
        """The files of a session that is not persistent go with its kernel."""
        if self.session.persistent or not self._state.is_stored or self._state.is_deleted:
            return
        for command in self._commands.with_machine:  # the end of the machine has ended them
            await command.released.wait()
        async with self._tracker.lock:
            await self._tracker.clear_files()
        self._state.update_soon(file_count=0, total_size=0)

    def _warn(self, message: str, problem: EraError) -> None:
        log.warning(message, extra={"session": self.session.id, "why": problem.message})

"""A live session is an actor with a FIFO queue, and the sole owner of its machine."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

from era_kernels.errors import EraError
from era_kernels.models import (
    EndReason,
    ExecSubmission,
    Session,
    SessionStatus,
    Submission,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.session.commands import Commands, CommandStrategy
from era_kernels.services.session.job import S, Strategy
from era_kernels.services.session.lost_variables import LostVariables
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.machine_opener import MachineOpener
from era_kernels.services.session.queue import RunQueue
from era_kernels.services.session.runner import JobRunner
from era_kernels.services.session.runs import KernelStrategy, Runs
from era_kernels.services.session.session_values import SessionValues
from era_kernels.services.session.workspace import SessionWorkspace
from era_kernels.storage.workspaces import FileChange

log = logging.getLogger(__name__)


class LiveSession:
    """Runs code in one session, restarts and ends it; all calls on a session come through here."""

    def __init__(
        self, session: Session, context: ServiceContext, *, is_stored: bool = True
    ) -> None:
        self._values = SessionValues(session, context.store, is_stored=is_stored)
        self._context = context
        self._borrow_count = 0
        self._workspace = SessionWorkspace(self._values, context.workspaces)
        lost_variables = LostVariables(self._values)
        opener = MachineOpener(self._values, context, self, lost_variables, self._on_machine_ended)
        self._session_machine = SessionMachine(opener, self._clear_files)
        self._queue = RunQueue(context.service_limits.max_queue, self._reap)
        on_kernel = KernelStrategy(self._workspace, self._session_machine, lost_variables)
        self._runs = Runs(self._values, context, self._queue, self._make_runner(on_kernel))
        beside_kernel = self._make_runner(CommandStrategy())
        self._commands = Commands(self._values, context, beside_kernel)

    def _make_runner(self, strategy: Strategy[S]) -> JobRunner[S]:
        parts = (self._values, self._context, self._workspace, self._session_machine)
        return JobRunner(*parts, strategy, holder=self)

    @property
    def session(self) -> Session:
        """The session's present values."""
        return self._values.session

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
    def session_machine(self) -> SessionMachine:
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
        self._values.check_open()
        if isinstance(submission, ExecSubmission):
            return await self._commands.submit(submission)
        return await self._runs.submit(submission)

    # ------------------------------------------------------------ everything else

    async def update(self, **changes: object) -> None:
        """Changes stored fields; returns when they are durable and in force.

        Raises SessionNotFound.
        """
        update = self._workspace.update_data if "data" in changes else self._values.update
        await update(**changes)
        if not self.session.allow_public:
            self._context.public_cutoff.close(self.session.id)
        machine = self._session_machine.find()
        if machine is not None:
            await machine.services.apply_internet()

    async def change_file(self, operation: Callable[[], Awaitable[FileChange]]) -> None:
        """Lets `operation` put or delete a file, never while `after_run` looks at the files.

        `end` waits for the operation, and none starts afterwards.
        """
        await self._workspace.change_file(operation)

    @asynccontextmanager
    async def frozen_files(self, *, wait_in_queue: bool) -> AsyncIterator[None]:
        """Keeps the files from being cleared while the context is open, so that they can be copied.

        With `wait_in_queue`, no run is under way meanwhile. Raises QueueFull, SessionNotFound.
        """
        async with self._queue.slot() if wait_in_queue else nullcontext():
            self.check_open()
            async with nullcontext() if self.session.persistent else self._workspace.frozen():
                yield

    async def restart(self, base_url: str) -> int:
        """Starts a fresh kernel with the same files and data; returns the kernel's generation.

        Queued runs get the new kernel; so does a run whose kernel was only starting. Raises
        AtCapacity, KernelStartFailed, StorageFailed, InsufficientStorage.
        """
        self.check_open()
        # Wait only for runs on the old machine; runs that start from here on use the new one.
        runs, commands = self._queue.with_machine, self._commands.with_machine
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
        closed_with = self._values.close(reason, closed_error)
        try:
            await self._session_machine.close(*closed_with)
        finally:
            await self.wait_idle()
        await self._reap()
        async with self._workspace.frozen():  # wait for a file that is just being put
            pass

    async def wait_idle(self) -> None:
        """Waits until no run is under way or waits, and no command runs."""
        await self._queue.wait_idle()
        await self._commands.wait_idle()

    @property
    def is_closed(self) -> bool:
        return self._values.closed_with is not None

    def check_open(self) -> None:
        """Raises the error that `end` was given."""
        self._values.check_open()

    # ------------------------------------------------------------ the machine

    def _on_machine_ended(self) -> None:
        if self._values.closed_with is None:
            self._queue.wake()

    async def _reap(self) -> None:
        if self._session_machine.is_alive:
            return
        try:
            await self._session_machine.reap()
        except EraError as problem:  # the next run tries again, and gets the error
            extra = {"session": self.session.id, "why": problem.message}
            log.warning("the files of a kernel were not dropped", extra=extra)

    async def _clear_files(self) -> None:
        """Removes the files of a session that is not persistent, when its machine has ended."""
        if self.session.persistent or not self._values.is_stored or self._values.is_deleted:
            return
        for command in self._commands.with_machine:  # they end with the machine
            await command.released.wait()
        await self._workspace.clear_files()

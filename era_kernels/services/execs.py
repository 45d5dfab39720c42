"""Programs beside a session's queue: each is an execution, in the walls of the session's kernel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import EraError, QueueFull
from era_kernels.kernels.exec_process import ExecProcess, FailedExec
from era_kernels.kernels.machine import Machine
from era_kernels.models import ExecSubmission, Finished, Session
from era_kernels.services.capacity import RETRY_AFTER_SECONDS
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions import Running
from era_kernels.services.outcome import Timing, cancelled, ended_for
from era_kernels.services.pump import pump_program
from era_kernels.services.session.cancellation import Cancellation
from era_kernels.services.session.execution_finisher import ExecutionFinisher
from era_kernels.services.session.machine import SessionMachine
from era_kernels.services.session.state import SessionState
from era_kernels.services.session.workspace import SessionWorkspace

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Exec:
    """One program on its way: `started` when it runs, or will not; `settled` when it is over."""

    submission: ExecSubmission
    timeout: float
    opening: asyncio.Task[Running] | None = None
    serving: asyncio.Task[None] | None = None
    program: ExecProcess | FailedExec | None = None
    interruption: Cancellation = field(init=False)
    seated: bool = False  # it has had the session's machine
    started: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Execs:
    """The programs of one session that run at once; none waits for another, or for a run."""

    def __init__(
        self,
        record: SessionState,
        tools: ServiceContext,
        traces: SessionWorkspace,
        seat: SessionMachine,
        holder: Hashable,
    ) -> None:
        """`holder` is whose place among all kernels it is."""
        self._record = record
        self._tools = tools
        self._traces = traces
        self._holder = holder
        self._seat = seat
        self._conclusions = ExecutionFinisher(tools)
        self._errands = BackgroundTasks()
        self._all: set[Exec] = set()
        self.idle_since = time.monotonic()

    def __len__(self) -> int:
        return len(self._all)

    async def submit(self, submission: ExecSubmission) -> Running:
        """Run it; answers when the execution's log is open.

        A caller that is cancelled meanwhile leaves its program behind, which goes on. Raises
        InvalidRequest (timeout), QueueFull, Capacity, StorageFailed.
        """
        session, rules = self._record.session, self._tools.service_limits
        timeout = rules.command_timeout(submission.timeout, session.default_timeout)
        if len(self) >= max(1, rules.max_queue):
            raise QueueFull(
                f"{len(self)} programs run beside this session's queue already.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._tools.kernel_limiter.acquire(self._holder)
        one = Exec(submission, timeout)
        one.interruption = Cancellation(lambda: _withdraw(one))
        self._all.add(one)
        one.opening = asyncio.create_task(self._open(one))
        one.serving = asyncio.create_task(self._serve(one))
        return await asyncio.shield(one.opening)

    @property
    def seated(self) -> list[Exec]:
        """Those that are in the walls; those that wait for others do not count."""
        return [one for one in self._all if one.seated]

    async def wait_idle(self) -> None:
        """Until there is none."""
        while self._all:
            await asyncio.wait([one.serving for one in self._all if one.serving is not None])

    async def _open(self, one: Exec) -> Running:
        running = await self._tools.executions.open(
            self._record.session, one.submission.code, stored=self._record.is_stored
        )
        running.interrupt, running.beside = one.interruption, True
        one.interruption.finished = running.finished
        return running

    async def _serve(self, one: Exec) -> None:
        assert one.opening is not None
        try:
            await asyncio.wait([one.opening])
            if not one.opening.cancelled() and one.opening.exception() is None:
                await self._carry_out(one, one.opening.result())
        except Exception:
            extra = {"session": self._record.session.id}
            log.exception("a program failed inside the server", extra=extra)
        finally:
            self._all.discard(one)
            # It is part of a ring, and may be here for long after; its texts may be large.
            one.submission = replace(one.submission, stdin=None, env={})
            self.idle_since = time.monotonic()
            one.started.set()
            one.settled.set()
            self._tools.kernel_limiter.release(self._holder)

    async def _carry_out(self, one: Exec, running: Running) -> None:
        timing, modified = Timing(), 0
        try:
            finished = await self._run(one, running, timing)
            if one.seated:
                modified = await self._traces.after_run(running)
                one.settled.set()
                await self._traces.cleanup(running)
            session = self._record.session
            await self._conclusions.finish(
                running, finished, timing, session, one.timeout, modified
            )
        except Exception as problem:
            session = self._record.session
            await self._conclusions.abort(running, problem, self._failed(), session)
            raise
        if self._record.is_stored and self._record.closed_with is None:
            await self._tools.executions.trim(self._record.session)

    async def _run(self, one: Exec, running: Running, timing: Timing) -> Finished:
        self._tools.executions.start(running)
        try:
            return await self._in_walls(one, running, timing)
        except EraError as problem:
            if self._record.closed_with is not None:
                return ended_for(self._record.closed_with[0])
            running.problem = problem
            return self._failed()

    async def _in_walls(self, one: Exec, running: Running, timing: Timing) -> Finished:
        submission, asked = one.submission, time.monotonic()
        env = self._record.kernel_env(submission.base_url)
        walls = await self._walls(one, env)
        if walls is None:
            return cancelled("preserved")
        machine, timing.started_from = walls
        await self._traces.before_run(exclusive=False)
        if one.interruption.requested.is_set():
            return cancelled("preserved")
        environment = {**submission.env, **env}
        program = await machine.run(submission.argv, environment, submission.stdin)
        one.program, one.interruption.interrupt = program, program.interrupt
        one.started.set()
        began = time.monotonic()
        timing.start = began - asked
        most = self._tools.service_limits.max_execution_output
        try:
            return await pump_program(running, program, one.timeout, most)
        finally:
            timing.execution = time.monotonic() - began

    async def _walls(self, one: Exec, env: Mapping[str, str]) -> tuple[Machine, str] | None:
        """Its walls, or None when it is cancelled: they are raised all the same, for the next."""
        raising = self._errands.spawn(self._raised(one, env))
        given_up = asyncio.create_task(one.interruption.requested.wait())
        try:
            await asyncio.wait([raising, given_up], return_when=asyncio.FIRST_COMPLETED)
        finally:
            given_up.cancel()
        return raising.result() if raising.done() else None

    async def _raised(self, one: Exec, env: Mapping[str, str]) -> tuple[Machine, str]:
        with self._tools.kernel_limiter.reserved(self._holder):
            walls = await self._seat.acquire_sandbox(env)
        one.seated = not one.interruption.requested.is_set()
        return walls

    def _failed(self) -> Finished:
        return Finished(1, state="preserved" if self._seat.is_alive else "lost")


async def has_run(tools: ServiceContext, session: Session) -> bool:
    """Whether anything has ever run in the session, be it a kernel or only programs."""
    if session.kernel_generation:
        return True
    _, total = await tools.executions.list_executions(session.id, limit=1)
    return total > 0


async def _withdraw(one: Exec) -> None:
    """It never starts; or if it was just being started, it is interrupted."""
    await one.started.wait()
    if one.program is not None:
        await one.program.interrupt()

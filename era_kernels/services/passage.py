"""A run's passage: from the queue onto its session's kernel, and what it left behind."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from era_kernels.errors import EraError
from era_kernels.models import Finished, Request
from era_kernels.services.conclusions import Conclusions
from era_kernels.services.executions import Running
from era_kernels.services.outcome import Timing, cancelled, ended_for
from era_kernels.services.pump import pump
from era_kernels.services.record import Record
from era_kernels.services.runs import Ticket
from era_kernels.services.seat import Seat
from era_kernels.services.tools import Tools
from era_kernels.services.traces import Traces

log = logging.getLogger(__name__)


class Passage:
    """Takes the runs of one session through their turns, one at a time."""

    def __init__(
        self,
        record: Record,
        tools: Tools,
        traces: Traces,
        seat: Seat,
        held: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`held`: the session's place among those with kernels is not given back meanwhile."""
        self._record = record
        self._tools = tools
        self._traces = traces
        self._seat = seat
        self._conclusions = Conclusions(tools)
        self._held = held
        self._starts: set[asyncio.Task[None]] = set()  # of kernels for runs that were cancelled
        self._begun = 0  # runs

    async def take(self, ticket: Ticket, running: Running) -> None:
        """Run it, and tell how it ended. What fails in the server ends the run and is raised."""
        timing = self._timing(ticket)
        modified = 0
        try:
            if self._record.end is not None:
                reason, running.problem = self._record.end
                finished = ended_for(reason)
            elif ticket.interruption.asked.is_set():
                finished = self._cancelled()
            else:
                finished = await self._run(ticket, running, timing)
                if ticket.seated:
                    modified = await self._traces.settle(running)
                    await self._traces.tidy(running)
            await self._conclude(ticket, running, finished, timing, modified)
        except Exception as problem:
            await self.abort(ticket, running, problem)
            raise

    async def cancel(self, ticket: Ticket, running: Running) -> None:
        """Tell the end of a run that gave its place in the queue back. Raises as `take` does."""
        try:
            await self._conclude(ticket, running, self._cancelled(), self._timing(ticket))
        except Exception as problem:
            await self.abort(ticket, running, problem)
            raise

    async def _conclude(
        self,
        ticket: Ticket,
        running: Running,
        finished: Finished,
        timing: Timing,
        modified: int = 0,
    ) -> None:
        session = self._record.session
        self._release_key(ticket, running, running.problem)
        await self._conclusions.finish(running, finished, timing, session, ticket.timeout, modified)
        if self._record.stored and self._record.end is None:
            await self._tools.executions.trim(session)

    def _release_key(self, ticket: Ticket, running: Running, problem: Exception | None) -> None:
        """Code that did not run because the server could not may be asked for again."""
        keyed, had_kernel = ticket.submission.keyed, ticket.interruption.stop is not None
        if keyed is not None and problem is not None and not had_kernel:
            self._tools.executions.release_key(running)

    def _timing(self, ticket: Ticket) -> Timing:
        return Timing(
            queued=time.monotonic() - ticket.queued_at,
            started_from="live" if self._seat.has_kernel else "fresh",
        )

    async def abort(self, ticket: Ticket, running: Running, problem: Exception) -> None:
        """End it because something failed in the server, unless it has ended."""
        self._release_key(ticket, running, problem)
        await self._conclusions.abort(running, problem, self._failed(), self._record.session)

    async def _run(self, ticket: Ticket, running: Running, timing: Timing) -> Finished:
        self._tools.executions.start(running)
        try:
            return await self._on_kernel(ticket, running, timing)
        except EraError as problem:
            if self._record.end is not None:
                return ended_for(self._record.end[0])
            running.problem = problem
            return self._failed()

    async def _on_kernel(self, ticket: Ticket, running: Running, timing: Timing) -> Finished:
        submission = ticket.submission
        if submission.update_data:
            await self._traces.update(submission.update_data)
        env = self._record.environment(submission.base_url)
        asked = time.monotonic()
        if not await self._kernel_is_there(ticket, env):
            return self._cancelled()
        machine, timing.started_from = await self._seat.machine(env)
        ticket.seated = True
        timing.start = time.monotonic() - asked
        await self._traces.begin(alone=True)
        if ticket.interruption.asked.is_set():
            return self._cancelled()
        self._begun += 1
        request = Request(submission.code, {**submission.env, **env}, ticket.timeout, self._begun)
        ticket.interruption.stop = partial(machine.kernel.escalate_interrupt, request)
        began = time.monotonic()
        try:
            return await pump(running, machine, request, self._tools.rules.max_execution_output)
        finally:
            timing.execution = time.monotonic() - began

    async def _kernel_is_there(self, ticket: Ticket, env: Mapping[str, str]) -> bool:
        """Wait for it, unless the run is cancelled: the start goes on then, for the next run."""
        if self._seat.has_kernel:
            return True
        starting = asyncio.create_task(self._start(env))
        self._starts.add(starting)
        starting.add_done_callback(self._starts.discard)
        given_up = asyncio.create_task(ticket.interruption.asked.wait())
        try:
            await asyncio.wait([starting, given_up], return_when=asyncio.FIRST_COMPLETED)
        finally:
            given_up.cancel()
        if ticket.interruption.asked.is_set():
            starting.add_done_callback(_on_started)
            return False
        starting.result()  # what kept the kernel from starting is told to this run
        return True

    async def _start(self, env: Mapping[str, str]) -> None:
        with self._held():
            await self._seat.renew(env)

    def _cancelled(self) -> Finished:
        """A run that its kernel never had took nothing away."""
        there = self._seat.has_kernel or self._seat.starting
        return cancelled("preserved" if there else "lost")

    def _failed(self) -> Finished:
        return Finished(1, state="preserved" if self._seat.alive else "lost")


def _on_started(starting: asyncio.Task[None]) -> None:
    """A start that no run waits for any more failed: the next run tries again, and is told."""
    problem = None if starting.cancelled() else starting.exception()
    if problem is not None and not isinstance(problem, EraError):
        log.error("a kernel could not be started", exc_info=problem)

"""A run's passage: from the queue onto its session's kernel, and what it left behind."""

from __future__ import annotations

import time

from era_kernels.errors import EraError, SessionNotFound, TooLarge
from era_kernels.models import Finished, JsonObject, Request, now
from era_kernels.services.conclusions import Conclusions
from era_kernels.services.desk import Desk
from era_kernels.services.executions import Running
from era_kernels.services.outcome import Timing, ended_for
from era_kernels.services.pump import pump
from era_kernels.services.record import Record
from era_kernels.services.rules import merged
from era_kernels.services.runs import Ticket
from era_kernels.services.seat import Seat
from era_kernels.services.tools import Tools


class Passage:
    """Takes the runs of one session through their turns, one at a time."""

    def __init__(self, record: Record, tools: Tools, desk: Desk, seat: Seat) -> None:
        self._record = record
        self._tools = tools
        self._desk = desk
        self._seat = seat
        self._conclusions = Conclusions(tools)
        self._begun = 0  # runs

    async def take(self, ticket: Ticket, running: Running) -> None:
        """Run it, and tell how it ended. What fails in the server ends the run and is raised."""
        timing = Timing(queued=time.monotonic() - ticket.queued_at)
        modified = 0
        try:
            if self._record.end is not None:
                reason, running.problem = self._record.end
                finished = ended_for(reason)
            else:
                finished = await self._run(ticket, running, timing)
                modified = await self._settle(ticket, running)
            await self._conclusions.finish(
                running, finished, timing, self._record.session, ticket.timeout, modified
            )
        except Exception as problem:
            await self.abort(running, problem)
            raise
        if self._record.stored and self._record.end is None:
            await self._tools.executions.trim(self._record.session)

    async def abort(self, running: Running, problem: Exception) -> None:
        """End it because something failed in the server, unless it has ended."""
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
            async with self._desk.lock:
                await self._record.change_data(
                    merged(self._record.session.data, submission.update_data)
                )
        env = self._record.environment(submission.base_url)
        asked = time.monotonic()
        machine, timing.started_from = await self._seat.machine(env)
        ticket.seated = True
        timing.start = time.monotonic() - asked
        async with self._desk.lock:
            await self._desk.prepare(self._record.session.data)
        self._begun += 1
        request = Request(submission.code, {**submission.env, **env}, ticket.timeout, self._begun)
        began = time.monotonic()
        try:
            return await pump(running, machine, request, self._tools.rules.max_execution_output)
        finally:
            timing.execution = time.monotonic() - began

    async def _settle(self, ticket: Ticket, running: Running) -> int:
        """What the run did to the workspace and to `.session_data.json`; files modified."""
        if not ticket.seated or self._record.deleted:
            return 0
        try:
            async with self._desk.lock:
                after = await self._desk.settle()
                if after.data is not None:
                    await self._adopt(after.data)
            self._record.note(
                last_run_at=now(),
                file_count=after.snapshot.count,
                total_size=after.snapshot.total_size,
            )
            if not self._record.session.persistent:
                await self._seat.clear()
        except SessionNotFound:  # it is just being deleted
            return 0
        except EraError as problem:
            running.problem = running.problem or problem
            return 0
        return after.files_modified

    async def _adopt(self, data: JsonObject) -> None:
        """What the code wrote to `.session_data.json` becomes the session's data, if it fits."""
        try:
            await self._record.change_data(data)
        except TooLarge:
            return

    def _failed(self) -> Finished:
        return Finished(1, state="preserved" if self._seat.alive else "lost")

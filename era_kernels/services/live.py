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
    ExecSubmission,
    Queued,
    Reason,
    Session,
    SessionStatus,
    Submission,
)
from era_kernels.services.desk import Desk
from era_kernels.services.execs import Execs
from era_kernels.services.executions import Running
from era_kernels.services.interruption import Interruption
from era_kernels.services.openings import Openings
from era_kernels.services.passage import Passage
from era_kernels.services.record import Record
from era_kernels.services.runs import Runs, Ticket
from era_kernels.services.seat import Seat
from era_kernels.services.tools import Tools
from era_kernels.services.traces import Traces
from era_kernels.storage.workspaces import Change

log = logging.getLogger(__name__)


class LiveSession:
    """Runs, restarts and ends one session; everything about it goes through here, in order."""

    def __init__(self, session: Session, tools: Tools, *, stored: bool = True) -> None:
        self._record = Record(session, tools.store, stored=stored)
        self._tools = tools
        self._users = 0
        self._desk = Desk(tools.workspaces, session.directory)
        openings = Openings(self._record, tools, self, self._on_ended)
        self._seat = Seat(openings.open, openings.start_kernel, self._drop_files)
        traces = Traces(self._record, self._desk, self._seat)
        held = partial(tools.seats.held, self)
        self._passage = Passage(self._record, tools, traces, self._seat, held)
        self._execs = Execs(self._record, tools, traces, self._seat, self)
        self._runs = Runs(tools.rules.max_queue, self._serve, self._put_in_order)

    @property
    def session(self) -> Session:
        """Its present values."""
        return self._record.session

    @property
    def status(self) -> SessionStatus:
        if self._seat.starting:
            return SessionStatus.STARTING
        if self._runs:
            return SessionStatus.BUSY
        return SessionStatus.IDLE if self._seat.has_kernel else SessionStatus.STOPPED

    @property
    def runs(self) -> int:
        """How many runs there are: one is under way, the others wait."""
        return len(self._runs)

    @property
    def machine(self) -> Machine | None:
        """The machine that it has now, if any."""
        return self._seat.present

    @contextmanager
    def used(self) -> Iterator[None]:
        """As long as a call is under way, the session does not rest."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    @property
    def resting(self) -> bool:
        """Nothing of it is alive: it may be forgotten and read from the store again."""
        return self._seat.resting and not (self._runs.working or self._users or self._execs)

    @property
    def quiet_since(self) -> float | None:
        """When the last run ended (monotonic); None while something is under way."""
        if self._runs or self._users or self._execs:
            return None
        return max(self._runs.idle_since, self._execs.idle_since)

    # ------------------------------------------------------------ the queue

    async def submit(self, submission: Submission | ExecSubmission) -> Running:
        """Take a place in the queue, or run beside it; answers when the execution's log is open.

        A caller that is cancelled meanwhile leaves its run behind, which goes on.
        Raises InvalidRequest (timeout), QueueFull, Capacity, StorageFailed, SessionNotFound.
        """
        self.check_open()
        if isinstance(submission, ExecSubmission):
            return await self._execs.submit(submission)
        timeout = self._tools.rules.timeout_of(submission, self.session.default_timeout)
        self._runs.check_room()
        self._tools.seats.take(self)
        ticket = Ticket(submission, timeout, Interruption(lambda: self._withdraw(ticket)))
        ticket.opening = asyncio.create_task(self._open(ticket))
        self._runs.add(ticket)
        return await asyncio.shield(ticket.opening)

    async def _open(self, ticket: Ticket) -> Running:
        running = await self._tools.executions.open(
            self.session,
            ticket.submission.code,
            stored=self._record.stored,
            keyed=ticket.submission.keyed,
        )
        ticket.running = running
        running.interrupt = ticket.interruption
        ticket.interruption.finished = running.finished
        if ticket.submission.ends_with_caller:
            running.abandon = ticket.interruption
        position = self._runs.position(ticket)
        if position:
            running.execution = dataclasses.replace(running.execution, position=position)
            try:
                await running.publish([Queued(position)])
            except StorageFailed as problem:
                await self._passage.abort(ticket, running, problem)
                raise
        return running

    async def _withdraw(self, ticket: Ticket) -> None:
        """Cancel a run that waits, unless the session's end has taken care of it already."""
        if self.ended or ticket.running is None or not self._runs.withdraw(ticket):
            return
        try:
            await self._passage.cancel(ticket, ticket.running)
        finally:
            self._tools.seats.free(self)

    async def _serve(self, ticket: Ticket) -> None:
        assert ticket.opening is not None
        try:
            await asyncio.wait([ticket.opening])
            if ticket.running is not None and not ticket.running.finished.is_set():
                await self._passage.take(ticket, ticket.running)
        except Exception:
            log.exception("a run failed inside the server", extra={"session": self.session.id})
        finally:
            self._tools.seats.free(self)

    # ------------------------------------------------------------ everything else

    async def update(self, **changes: object) -> None:
        """Change stored fields; the answer waits until they are durable. Raises SessionNotFound."""
        if "data" not in changes:
            await self._record.change(**changes)
            return
        async with self._desk.lock:
            await self._record.change(**changes)
            try:
                await self._desk.mirror(self.session.data)
            except StorageFailed as problem:  # it is written anew before the next run
                self._warn("the mirror of the data was not written", problem)

    async def change_file(self, step: Callable[[], Awaitable[Change]]) -> None:
        """Let the step put or delete a file, not while a run is just being settled.

        The end of the session waits for it, and nothing begins after that: what is to be removed
        must not grow meanwhile.
        """
        async with self._desk.lock:
            self.check_open()
            change = await self._desk.change_file(step)
        self._record.note(
            file_count=max(0, self.session.file_count + change.count_delta),
            total_size=max(0, self.session.total_size + change.size_delta),
        )

    @asynccontextmanager
    async def still(self, *, in_turn: bool) -> AsyncIterator[None]:
        """For a copy of the files: none are dropped meanwhile, and in its turn no run is under way.

        Raises QueueFull, SessionNotFound.
        """
        async with self._runs.turn() if in_turn else nullcontext():
            self.check_open()
            async with nullcontext() if self.session.persistent else self._desk.lock:
                yield

    async def restart(self, base_url: str) -> int:
        """A fresh kernel with the same files and data; queued runs go on with it.

        So does a run whose kernel was only starting. Raises Capacity, KernelStartFailed,
        StorageFailed, InsufficientStorage.
        """
        self.check_open()
        # What comes meanwhile may get the next machine, and is not waited for.
        runs, programs = self._runs.seated, self._execs.seated
        with self._tools.seats.held(self):
            await self._seat.end(Reason.RESTARTED)
            for run in runs:
                await run.left.wait()
            for program in programs:
                await program.settled.wait()
            await self._seat.renew(self._record.environment(base_url))
        return self.session.kernel_generation

    async def end(self, reason: Reason, refusal: EraError) -> None:
        """End the kernel, the run on it and the queue; afterwards every call raises `refusal`."""
        if self._record.end is None:
            self._record.end = (reason, refusal)
        await self._seat.close(*self._record.end)
        await self.wait_idle()
        await self._put_in_order()
        async with self._desk.lock:  # a file that is just being put
            pass

    async def wait_idle(self) -> None:
        """Until no run is under way or waits, nor a program runs beside them."""
        await self._runs.wait_idle()
        await self._execs.wait_idle()

    @property
    def ended(self) -> bool:
        return self._record.end is not None

    def check_open(self) -> None:
        """Raises what `end` was given."""
        self._record.check_open()

    # ------------------------------------------------------------ the machine

    def _on_ended(self) -> None:
        if self._record.end is None:
            self._runs.wake()

    async def _put_in_order(self) -> None:
        try:
            await self._seat.clear()
        except EraError as problem:  # the next run tries again, and is told
            self._warn("the files of a kernel were not dropped", problem)

    async def _drop_files(self) -> None:
        """The files of a session that is not persistent go with its kernel."""
        if self.session.persistent or not self._record.stored or self._record.deleted:
            return
        for program in self._execs.seated:  # the end of the machine has ended them
            await program.settled.wait()
        async with self._desk.lock:
            await self._desk.clear()
        self._record.note(file_count=0, total_size=0)

    def _warn(self, message: str, problem: EraError) -> None:
        log.warning(message, extra={"session": self.session.id, "why": problem.message})

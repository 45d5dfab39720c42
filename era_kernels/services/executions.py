"""Executions: what a kernel says is logged first, then published to any number of readers."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import islice

from era_kernels.errors import EraError, NotRunning, StorageFailed
from era_kernels.json_incremental import estimate_size
from era_kernels.kernels.control_client import ControlClient
from era_kernels.models import (
    Done,
    Event,
    Execution,
    ExecutionStatus,
    InputRequest,
    Keyed,
    Recorded,
    Session,
    Stderr,
    Stdout,
    Step,
    now,
)
from era_kernels.services.fold import Fold, RunAnswer
from era_kernels.services.inputs import Inputs
from era_kernels.services.replay import replay
from era_kernels.storage.execution_log import ExecutionLog, ExecutionStore
from era_kernels.storage.log_reader import LogReader

TAIL_BYTES = 256 * 1024  # of text that a live execution keeps in memory for its readers


class Tail:
    """The newest events of a live execution: the last batch, and others bounded by their text."""

    def __init__(self, bound: int = TAIL_BYTES) -> None:
        self._bound = bound
        self._events: deque[Recorded] = deque()
        self._size = 0
        self.last_seq = 0

    def extend(self, batch: Sequence[Recorded]) -> None:
        for item in batch:
            self._events.append(item)
            self._size += _weight(item.event)
            self.last_seq = item.seq
        while self._size > self._bound and len(self._events) > max(len(batch), 1):
            self._size -= _weight(self._events.popleft().event)

    def after(self, seq: int) -> list[Recorded] | None:
        """The events after `seq`, oldest first; None when some of them are only in the file."""
        if seq >= self.last_seq:
            return []
        if not self._events or self._events[0].seq > seq + 1:
            return None
        return list(islice(self._events, seq + 1 - self._events[0].seq, None))


def _weight(event: Event) -> int:
    if isinstance(event, Stdout | Stderr):
        return len(event.content) + 100
    if isinstance(event, InputRequest):
        return len(event.prompt) + 100
    return 100 + estimate_size(getattr(event, "data", None), TAIL_BYTES)


class Running:
    """A live execution: appended to by its session, followed by any number of readers."""

    def __init__(self, execution: Execution, log: ExecutionLog, answer_bound: int) -> None:
        self.execution = execution
        self.problem: EraError | None = None  # the run never reached a kernel, or lost its log
        self.log = log
        self.finished = asyncio.Event()
        self.abandon: Callable[[], Awaitable[object]] = _nothing
        self.done: Done | None = None  # its last event, when it has come
        # Set by who runs it: ends it and nothing else, and tells what that took.
        self.interrupt: Callable[[], Awaitable[Sequence[Step]]] | None = None
        self.inputs = Inputs()
        self.inside: ControlClient | None = None  # of the kernel that runs it, while it does
        self.beside = False  # is it a program beside the kernel?
        self._callers = 0
        self._answer_bound = answer_bound
        self._tail = Tail()
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self.execution.id

    @property
    def session_id(self) -> str:
        return self.execution.session_id

    def join(self) -> None:
        """One more of those who asked for it waits for it."""
        self._callers += 1

    async def leave(self) -> None:
        """One of them left before the end. What that means is up to the last of them."""
        self._callers -= 1
        if not self._callers:
            await self.abandon()

    async def publish(self, events: Sequence[Event]) -> None:
        """Append to the log, then tell the readers. Raises StorageFailed; nothing is told then."""
        self._tell(await self.log.append(events))

    def publish_unlogged(self, events: Sequence[Event]) -> None:
        """Tell the readers the end of a run whose log cannot be written any more."""
        seq = self._tail.last_seq
        self._tell([Recorded(seq + n, now(), event) for n, event in enumerate(events, 1)])

    def _tell(self, batch: Sequence[Recorded]) -> None:
        self._tail.extend(batch)
        last = batch[-1].event if batch else None
        if isinstance(last, Done):
            self.done = last
        self._wake()

    def end(self, exit_code: int, cause: str | None) -> None:
        """Nothing comes any more."""
        self.execution = dataclasses.replace(
            self.execution,
            status=ExecutionStatus.FINISHED,
            finished_at=now(),
            exit_code=exit_code,
            cause=cause,
            position=None,
        )
        self.finished.set()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """Batches of events after that sequence number, then live ones; ends after `Done`.

        A reader that is slower than the run reads from the file, so it costs no memory. A number
        that the run has not reached stands for its last.
        """
        after = min(after, self._tail.last_seq)
        while True:
            changed = self._changed
            batch = self._tail.after(after)
            if batch is None:
                reached = after
                async with aclosing(self._from_file(after)) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        after = batch[-1].seq
                        yield batch
                if after == reached:
                    raise StorageFailed("The log of this execution has lost events.")
            elif batch:
                after = batch[-1].seq
                yield batch
                if isinstance(batch[-1].event, Done):
                    return
            elif self.finished.is_set():
                return
            else:
                await changed.wait()

    async def listen(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """The same for a reader who may answer what the program asks."""
        with self.inputs.listening():
            async with aclosing(self.follow(after)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    yield batch

    async def _from_file(self, after: int) -> AsyncIterator[list[Recorded]]:
        """What the tail no longer holds; stops as soon as the tail can go on from there."""
        async with aclosing(self.log.read(after)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                yield batch
                if self._tail.after(batch[-1].seq) is not None:
                    return

    async def answer(self) -> RunAnswer:
        """The fold of the whole execution, when it has ended.

        Raises the domain error that kept it from running at all.
        """
        fold = self._fold()
        async with aclosing(self.follow()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await fold.take(item.event for item in batch)
        if self.problem is not None:
            raise self.problem
        return fold.answer()

    async def so_far(self) -> tuple[Execution, RunAnswer]:
        """The execution as it is now, and the fold of what it has said."""
        execution, last_seq = self.execution, self._tail.last_seq
        fold, seq = self._fold(), 0
        async with aclosing(self.follow()) as batches:  # type: ignore[type-var]
            while seq < last_seq:
                batch = await anext(batches)
                await fold.take(item.event for item in batch if item.seq <= last_seq)
                seq = batch[-1].seq
        return execution, fold.answer()

    def _fold(self) -> Fold:
        return Fold(self.id, self.session_id, self._answer_bound)


async def _nothing() -> None:
    """Most executions go on when their client leaves."""


@dataclass(frozen=True, slots=True)
class Text:
    """One stream of an execution: `total` bytes, of which `read(start, stop)` gives a range."""

    total: int
    read: Callable[[int, int], AsyncIterator[bytes]]


class Executions:
    """Finds executions, live or stored; opens and finishes the live ones."""

    def __init__(
        self, store: ExecutionStore, *, keep: int, keep_bytes: int, answer_bound: int
    ) -> None:
        self._store = store
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._answer_bound = answer_bound
        self._live: dict[str, Running] = {}
        # Ended, and not stored yet: on a full disk that may take long.
        self._ended: dict[str, Execution] = {}

    async def open(
        self, session: Session, code: str, stored: bool = True, keyed: Keyed | None = None
    ) -> Running:
        """A new execution, queued, with its log. Raises StorageFailed, InsufficientStorage."""
        execution = Execution(f"exec-{secrets.token_hex(12)}", session.id, code, now())
        log = await self._store.create(
            execution, session.directory, session.language, is_indexed=stored, idempotency=keyed
        )
        running = Running(execution, log, self._answer_bound)
        self._live[running.id] = running
        return running

    def start(self, running: Running) -> None:
        """The kernel gets it now."""
        running.execution = dataclasses.replace(
            running.execution,
            status=ExecutionStatus.RUNNING,
            started_at=now(),
            position=None,
        )
        self._store.update_soon(running.execution)

    async def finish(self, running: Running, exit_code: int, cause: str | None) -> None:
        """Tell that it has ended, keep the outcome, close the log. Raises StorageFailed."""
        running.end(exit_code, cause)
        self._ended[running.id] = running.execution
        stored = partial(self._ended.pop, running.id)
        try:
            self._store.update_soon(running.execution, running.log, stored)
        finally:
            # From here on it is found in the store.
            del self._live[running.id]
            await running.log.aclose()

    async def trim(self, session: Session) -> None:
        """Drop the oldest executions past what is kept per session."""
        await self._store.trim(session.id, session.directory, self._keep, self._keep_bytes)

    async def get(self, session_id: str, execution_id: str) -> Execution:
        """Raises ExecutionNotFound."""
        running = self.find(session_id, execution_id)
        if running is not None:
            return running.execution
        ended = self._ended.get(execution_id)
        if ended is not None and ended.session_id == session_id:
            return ended
        return await self._store.get(session_id, execution_id)

    async def find_running(self, session_id: str, execution_id: str) -> Running | None:
        """The execution, unless it has ended. Raises ExecutionNotFound."""
        running = self.find(session_id, execution_id)
        if running is None:
            await self.get(session_id, execution_id)
        return running

    async def list_executions(
        self, session_id: str, limit: int | None = None, offset: int = 0
    ) -> tuple[list[Execution], int]:
        """Executions of a session, oldest first, and how many there are."""
        stored, total = await self._store.list_executions(session_id, limit, offset)
        return [
            self._live[one.id].execution if one.id in self._live else self._ended.get(one.id, one)
            for one in stored
        ], total

    async def follow(
        self, session: Session, execution_id: str, after: int = 0
    ) -> AsyncIterator[list[Recorded]]:
        """Events after a sequence number, then live ones. Raises ExecutionNotFound."""
        running = self.find(session.id, execution_id)
        if running is not None:
            batches = running.listen(after)
        else:
            execution, log = await self._stored(session, execution_id)
            batches = replay(log, execution, session, after)
        async with aclosing(batches):  # type: ignore[type-var]
            async for batch in batches:
                yield batch

    async def answer(
        self, session: Session, execution_id: str, wait: float = 0
    ) -> tuple[Execution, RunAnswer]:
        """The answer so far, after at most `wait` seconds; earlier when the execution ends."""
        running = self.find(session.id, execution_id)
        if running is not None:
            if wait > 0:
                await _wait(running.finished, wait)
            return await running.so_far()
        execution, log = await self._stored(session, execution_id)
        fold = Fold(execution_id, session.id, self._answer_bound)
        async with aclosing(replay(log, execution, session)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await fold.take(item.event for item in batch)
        return execution, fold.answer()

    async def find_key(self, session: Session, key: str) -> tuple[str, bytes] | None:
        """The kept execution that a caller's key stands for, and the digest of its body."""
        return await self._store.find_key(session.directory, key)

    def release_key(self, running: Running) -> None:
        """The key of a caller that it had is free again, for whoever looks from now on."""
        self._store.release_key_soon(running.id)

    async def interrupt(
        self, session_id: str, execution_id: str
    ) -> tuple[Execution, str, Sequence[Step]]:
        """End an execution, and no other: how it ended, its `state`, and what that took.

        Raises ExecutionNotFound, NotRunning.
        """
        running = self.find(session_id, execution_id)
        if running is None:
            await self.get(session_id, execution_id)
            raise NotRunning("The execution has finished.", id=execution_id)
        if running.interrupt is None:
            raise NotRunning("The execution cannot be interrupted yet.", id=execution_id)
        steps = await running.interrupt()
        await running.finished.wait()
        return running.execution, running.done.state if running.done else "lost", steps

    async def text(self, session: Session, execution_id: str, stream: str) -> Text:
        """What the execution wrote to `stdout` or `stderr` until now, as UTF-8."""
        running = self.find(session.id, execution_id)
        log = running.log if running else (await self._stored(session, execution_id))[1]
        return Text(log.text_bytes[stream], lambda start, stop: log.text(stream, start, stop))

    def find(self, session_id: str, execution_id: str) -> Running | None:
        """A live execution."""
        running = self._live.get(execution_id)
        return running if running is not None and running.session_id == session_id else None

    async def _stored(self, session: Session, execution_id: str) -> tuple[Execution, LogReader]:
        """One that has ended. Raises ExecutionNotFound, StorageFailed."""
        execution = await self.get(session.id, execution_id)
        return execution, await self._store.open_log(session.directory, execution_id)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return

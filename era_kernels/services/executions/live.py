"""Holds the state of one queued or running execution, and passes its events to its readers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import islice
from sys import getsizeof

from era_kernels.errors import EraError, StorageFailed
from era_kernels.json_incremental import estimate_size
from era_kernels.kernels.control_client import ControlClient
from era_kernels.models import (
    Done,
    Event,
    Execution,
    ExecutionStatus,
    InputRequest,
    InterruptStep,
    LoggedEvent,
    Stderr,
    Stdout,
    now,
)
from era_kernels.services.executions.limit_words import WORDS_LENGTH
from era_kernels.services.executions.result import ResultBuilder, RunResult
from era_kernels.services.executions.stdin import StdinBroker
from era_kernels.storage.execution_log import ExecutionLog

MAX_RECENT_BYTES = 256 * 1024  # of text that a live execution keeps in memory for its readers
# Bytes up to which the last batch is kept whole: readers that keep pace get it without the file.
MAX_BATCH_BYTES = 2 * 1024 * 1024


class RecentEvents:
    """Keeps the newest events of a live execution: the last batch, and earlier ones to a size.

    A batch past `max_batch_bytes` is in the log only: one display may take hundreds of megabytes.

    `last_stderr` is the end of its stderr, whatever else came since.
    """

    def __init__(
        self, max_bytes: int = MAX_RECENT_BYTES, max_batch_bytes: int = MAX_BATCH_BYTES
    ) -> None:
        self._max_bytes = max_bytes
        self._max_batch_bytes = max(max_bytes, max_batch_bytes)
        self._events: deque[LoggedEvent] = deque()
        self._size = 0
        self.last_seq = 0
        self.last_stderr = ""

    def extend(self, batch: Sequence[LoggedEvent], *, is_logged: bool = True) -> None:
        """Adds a batch; one that is not logged stays as a whole."""
        for item in batch:
            if isinstance(item.event, Stderr):
                kept = self.last_stderr + item.event.content[-WORDS_LENGTH:]
                self.last_stderr = kept[-WORDS_LENGTH:]
            self._events.append(item)
            self._size += _event_size(item.event)
            self.last_seq = item.seq
        while self._size > self._max_bytes and len(self._events) > max(len(batch), 1):
            self._size -= _event_size(self._events.popleft().event)
        if is_logged and self._size > self._max_batch_bytes:
            self._events.clear()
            self._size = 0

    def after(self, seq: int) -> list[LoggedEvent] | None:
        """Returns the events after `seq`, oldest first; None when some are only in the log file."""
        if seq >= self.last_seq:
            return []
        if not self._events or self._events[0].seq > seq + 1:
            return None
        return list(islice(self._events, seq + 1 - self._events[0].seq, None))


def _event_size(event: Event) -> int:
    if isinstance(event, Stdout | Stderr):
        return getsizeof(event.content) + 100  # with one emoji, four bytes for each character
    if isinstance(event, InputRequest):
        return len(event.prompt) + 100
    return 100 + estimate_size(getattr(event, "data", None), MAX_BATCH_BYTES)


class LiveExecution:
    """A queued or running execution, to which its session appends and which readers follow."""

    def __init__(self, execution: Execution, log: ExecutionLog, max_result_bytes: int) -> None:
        self.execution = execution
        self.error: EraError | None = None  # why the run reached no kernel, or lost its log
        self.log = log
        self.finished = asyncio.Event()
        self.on_abandoned: Callable[[], Awaitable[object]] = _do_nothing
        self.done_event: Done | None = None  # the last event, once it has been published
        # Set by the runner: ends this execution alone, and returns the steps that were taken.
        self.interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]] | None = None
        self.stdin = StdinBroker()
        self.control: ControlClient | None = None  # of its kernel, while the kernel runs it
        self.is_command = False  # True: a program beside the kernel, not a run
        self._caller_count = 0
        self._max_result_bytes = max_result_bytes
        self.recent = RecentEvents()
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self.execution.id

    @property
    def session_id(self) -> str:
        return self.execution.session_id

    def add_caller(self) -> None:
        """Counts one more caller that waits for the end of this execution."""
        self._caller_count += 1

    async def remove_caller(self) -> None:
        """Counts a caller that left before the end; calls `on_abandoned` when it was the last."""
        self._caller_count -= 1
        if not self._caller_count:
            await self.on_abandoned()

    async def publish(self, events: Sequence[Event]) -> None:
        """Appends events to the log, then wakes the readers.

        Raises StorageFailed; the readers see nothing of the events then.
        """
        self._publish(await self.log.append(events))

    def publish_unlogged(self, events: Sequence[Event]) -> None:
        """Gives the readers the last events of a run whose log cannot be written any more."""
        seq = self.recent.last_seq
        batch = [LoggedEvent(seq + n, now(), event) for n, event in enumerate(events, 1)]
        self._publish(batch, is_logged=False)

    def _publish(self, batch: Sequence[LoggedEvent], *, is_logged: bool = True) -> None:
        self.recent.extend(batch, is_logged=is_logged)
        last = batch[-1].event if batch else None
        if isinstance(last, Done):
            self.done_event = last
        self._wake_readers()

    def mark_finished(self, exit_code: int, cause: str | None) -> None:
        """Marks the execution as finished: no event comes any more."""
        self.execution = dataclasses.replace(
            self.execution,
            status=ExecutionStatus.FINISHED,
            finished_at=now(),
            exit_code=exit_code,
            cause=cause,
            position=None,
        )
        self.finished.set()
        self._wake_readers()

    def _wake_readers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int = 0) -> AsyncIterator[list[LoggedEvent]]:
        """Yields batches of the events after a sequence number, then live ones, up to `Done`.

        A reader that is slower than the run reads from the log file, so it costs no memory. A
        number that the run has not reached counts as the number of its last event.
        """
        after = min(after, self.recent.last_seq)
        while True:
            changed = self._changed
            batch = self.recent.after(after)
            if batch is None:
                reached = after
                async with aclosing(self._read_from_log(after)) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        after = batch[-1].seq
                        yield batch
                        del batch  # it may be large, and the next one may come in an hour
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

    async def follow_with_input(self, after: int = 0) -> AsyncIterator[list[LoggedEvent]]:
        """Yields what `follow` yields, to a reader that may answer the program's input requests."""
        with self.stdin.reader():
            async with aclosing(self.follow(after)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    yield batch
                    del batch

    async def _read_from_log(self, after: int) -> AsyncIterator[list[LoggedEvent]]:
        """Yields batches from the log file until the recent events in memory continue them."""
        async with aclosing(self.log.read(after)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                yield batch
                if self.recent.after(batch[-1].seq) is not None:
                    return

    async def result(self) -> RunResult:
        """Waits for the end of the execution and returns its result.

        Raises the domain error that kept the execution from running at all.
        """
        builder = self._result_builder()
        async with aclosing(self.follow()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await builder.add_cooperatively(item.event for item in batch)
                del batch
        if self.error is not None:
            raise self.error
        return builder.result()

    async def partial_result(self) -> tuple[Execution, RunResult]:
        """Returns the execution as it is now, and the result of its events so far."""
        execution, last_seq = self.execution, self.recent.last_seq
        builder, seq = self._result_builder(), 0
        async with aclosing(self.follow()) as batches:  # type: ignore[type-var]
            while seq < last_seq:
                batch = await anext(batches)
                await builder.add_cooperatively(
                    item.event for item in batch if item.seq <= last_seq
                )
                seq = batch[-1].seq
        return execution, builder.result()

    def _result_builder(self) -> ResultBuilder:
        return ResultBuilder(self.id, self.session_id, self._max_result_bytes)


def has_events_after(execution: LiveExecution, seq: int) -> bool:
    """Returns False if the last event of all has been published, and its number is not above `seq`.

    Until then events may come, whatever number a reader names.
    """
    return execution.done_event is None or execution.recent.last_seq > seq


async def _do_nothing() -> None:
    """Does nothing: most executions go on when their client leaves."""

"""Passes the events of one execution to its log, then to the readers that follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import islice
from sys import getsizeof

from era_kernels.concurrency.turns import Turns
from era_kernels.errors import StorageFailed
from era_kernels.json_incremental import estimate_size
from era_kernels.models import (
    Done,
    Event,
    InputRequest,
    LoggedEvent,
    Stderr,
    Stdout,
    event_values,
    now,
)
from era_kernels.services.executions.shortage_in_output import WORDS_LENGTH
from era_kernels.storage.execution_log import ExecutionLog

MAX_RECENT_BYTES = 256 * 1024  # of text that a live execution keeps in memory for its readers
# Bytes up to which the last batch is kept whole: readers that keep pace get it without the file.
MAX_BATCH_BYTES = 2 * 1024 * 1024
# Readers of one execution that all go on at once with each batch. More of them take turns, so that
# they leave the loop to others; while a reader waits, batches come together.
MAX_AT_ONCE = 16


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
    return 100 + estimate_size(event_values(event), MAX_BATCH_BYTES)


class EventFeed:
    """The events of one execution, which it publishes and any number of readers follow."""

    def __init__(self, log: ExecutionLog) -> None:
        self.log = log
        self.recent = RecentEvents()
        self.done_event: Done | None = None  # the last event, once it has been published
        self.finished = asyncio.Event()
        self._changed = asyncio.Event()
        self._reader_count = 0
        self._reader_turns = Turns()

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

    def close(self) -> None:
        """Tells the readers that no event comes any more."""
        self.finished.set()
        self._wake_readers()

    def _wake_readers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int = 0) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields batches of the events after a sequence number, then live ones, up to `Done`.

        A reader that is slower than the run reads from the log file, so it costs no memory. A
        number that the run has not reached counts as the number of its last event.
        """
        self._reader_count += 1
        try:
            async with aclosing(self._follow(after)) as batches:
                async for batch in batches:
                    yield batch
                    del batch
        finally:
            self._reader_count -= 1

    async def _follow(self, after: int) -> AsyncGenerator[list[LoggedEvent], None]:
        after = min(after, self.recent.last_seq)
        while True:
            changed = self._changed
            batch = self.recent.after(after)
            if batch is None:
                reached = after
                async with aclosing(self._read_from_log(after)) as batches:
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
                await self._wait_for_turn()

    async def _wait_for_turn(self) -> None:
        if self._reader_count > MAX_AT_ONCE:
            turn = self._reader_turns.take(is_alone=False)
            if turn is not None:
                await turn

    async def _read_from_log(self, after: int) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields batches from the log file until the recent events in memory continue them."""
        async with aclosing(self.log.read(after)) as batches:
            async for batch in batches:
                yield batch
                if self.recent.after(batch[-1].seq) is not None:
                    return

    def has_events_after(self, seq: int) -> bool:
        """Returns False if `Done` has been published, and its number is not above `seq`.

        Until then events may come, whatever number a reader names.
        """
        return self.done_event is None or self.recent.last_seq > seq

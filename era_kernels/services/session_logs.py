"""Stores the output that kernels print between and after runs, then passes it to followers.

A kernel prints as much as it likes, and all of it is taken at once, so that no run waits for the
log. At most MAX_PENDING_BYTES wait to be written, and no more than MAX_BYTES_PER_SECOND are
written in a second: of a flood the newest output is kept, and an entry tells how much was left
out. A failure here affects the log alone.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from era_kernels.errors import StorageFailed
from era_kernels.json_incremental import Utf8Text
from era_kernels.models import ClearOutput, InputRequest, LoggedEvent, Output, Stderr, Stdout, now
from era_kernels.services.executions.feed import RecentEvents
from era_kernels.storage.session_log import SessionLog, SessionLogStore, TextEvent, TimedText

log = logging.getLogger(__name__)

MAX_PENDING_BYTES = 1 << 20  # of text that waits to be written
MAX_BYTES_PER_SECOND = 4 << 20  # that are written
WRITE_INTERVAL = 0.02  # seconds between two writes, at least
RETRY_INTERVAL = 1.0  # seconds after a write that failed
ENTRY_OVERHEAD = 100  # bytes that a text costs beside its characters


@dataclass(frozen=True, slots=True)
class SessionLogView:
    """The entries that are kept of a session's log; `truncated`: older ones are gone."""

    entries: list[LoggedEvent]
    truncated: bool


class PendingOutput:
    """Holds the newest MAX_PENDING_BYTES of text to be written, and a count of the rest."""

    def __init__(self) -> None:
        self._texts: deque[TimedText] = deque()
        self.size = 0
        self._dropped_chars = 0

    def __bool__(self) -> bool:
        return bool(self._texts or self._dropped_chars)

    def add(self, text: TextEvent) -> None:
        """Adds a text, which must not be longer than a message of a kernel may be."""
        kept = type(text)(text.content[-MAX_PENDING_BYTES:])
        self._dropped_chars += len(text.content) - len(kept.content)
        self._texts.append((now(), kept))
        self.size += len(kept.content) + ENTRY_OVERHEAD
        while self.size > MAX_PENDING_BYTES + ENTRY_OVERHEAD:
            _, oldest = self._texts.popleft()
            self.size -= len(oldest.content) + ENTRY_OVERHEAD
            self._dropped_chars += len(oldest.content)

    def mark_lost(self, texts: Iterable[TimedText], dropped_chars: int) -> None:
        """Counts drained texts that could not be written: only their size is reported."""
        self._dropped_chars += dropped_chars + sum(len(text.content) for _, text in texts)

    def drain(self) -> tuple[list[TimedText], int]:
        """Removes and returns all texts, and how many characters were left out before them.

        Neighbouring texts of one stream are joined.
        """
        taken: list[TimedText] = []
        for kind, group in groupby(self._texts, lambda timed: type(timed[1])):
            texts = list(group)
            taken.append((texts[0][0], kind("".join(text.content for _, text in texts))))
        dropped_chars = self._dropped_chars
        self._texts.clear()
        self.size = self._dropped_chars = 0
        return taken, dropped_chars


class LiveSessionLog:
    """The log of one session while it is written or followed."""

    def __init__(self, stored_log: SessionLog) -> None:
        self.stored_log = stored_log
        self._pending = PendingOutput()
        self._recent = RecentEvents()
        self._changed = asyncio.Event()
        self._write_task: asyncio.Task[None] | None = None
        self._failure_count = 0
        self._is_closed = False
        self._is_closing = False

    def write(self, events: Sequence[Output]) -> None:
        """Takes the output of a kernel, to be written soon. Returns at once and never raises."""
        if self._is_closed:
            return
        for event in events:
            for text in event_texts(event):
                self._pending.add(text)
        if self._pending and self._write_task is None:
            self._write_task = asyncio.create_task(self._write_pending())

    def close(self) -> None:
        """Ends the log because its session is gone: followers get no more entries."""
        self._is_closed = True
        self._pending = PendingOutput()
        self._wake_followers()

    async def aclose(self) -> None:
        """Writes the pending output, then closes."""
        self._is_closing = True
        if self._write_task is not None:
            await asyncio.wait([self._write_task])
        self.close()

    async def _write_pending(self) -> None:
        """Writes one batch after the other, until no output is pending."""
        try:
            while self._pending:
                size = self._pending.size
                written = await self._write_batch()
                if not self._is_closing:
                    await asyncio.sleep(
                        max(WRITE_INTERVAL, size / MAX_BYTES_PER_SECOND)
                        if written
                        else RETRY_INTERVAL
                    )
                elif not written:
                    return
        finally:
            self._write_task = None

    async def _write_batch(self) -> bool:
        texts, dropped_chars = self._pending.drain()
        note = (
            [(now(), Stderr(f"[... {dropped_chars} characters left out ...]\n"))]
            if dropped_chars
            else []
        )
        try:
            entries = await self.stored_log.append([*note, *texts])
        except StorageFailed as error:
            if not self._is_closed:
                self._pending.mark_lost(texts, dropped_chars)
                self._log_failure(error)
            self._recent = RecentEvents()  # a part of the batch may be in the file
            return False
        self._recent.extend(entries)
        self._wake_followers()
        return True

    def _log_failure(self, error: StorageFailed) -> None:
        """Logs the 1st, 2nd, 4th, 8th … failure."""
        self._failure_count += 1
        if self._failure_count & (self._failure_count - 1) == 0:
            extra = {"count": self._failure_count, "why": error.message}
            log.warning("late output could not be written", extra=extra)

    def _wake_followers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields batches of the entries after a number, then live ones, until the session is gone.

        A number that the log has not reached counts as that of its last entry. Raises
        StorageFailed.
        """
        after = min(after, await self.stored_log.last_seq())
        while not self._is_closed:
            changed = self._changed
            batch = self._recent.after(after) if self._recent.last_seq else None
            if batch is None:
                batch = await self.stored_log.read(after)
            if batch:
                after = batch[-1].seq
                yield batch
            else:
                await changed.wait()


class SessionLogs:
    """Finds the logs of sessions, by the names of their directories."""

    def __init__(self, store: SessionLogStore) -> None:
        self._store = store
        # A writer or follower keeps its log in memory; all other logs are only files.
        self._live: weakref.WeakValueDictionary[str, LiveSessionLog] = weakref.WeakValueDictionary()

    def live_log(self, directory: str) -> LiveSessionLog:
        """Returns the log of a directory, to write or follow; at most one object of each exists."""
        found = self._live.get(directory)
        if found is None:
            found = self._live[directory] = LiveSessionLog(self._store.open_log(directory))
        return found

    async def view(self, directory: str) -> SessionLogView:
        """Returns the entries that are kept now, oldest first. Raises StorageFailed."""
        entries = await self.live_log(directory).stored_log.read()
        return SessionLogView(entries, truncated=bool(entries) and entries[0].seq > 1)

    async def follow(
        self, directory: str, after: int = 0
    ) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields what `LiveSessionLog.follow` of that directory yields."""
        async for batch in self.live_log(directory).follow(after):
            yield batch

    def close(self, directory: str) -> None:
        """Ends the log of a session that is gone."""
        if directory in self._live:
            self._live[directory].close()

    async def aclose(self) -> None:
        """Writes pending output and ends all followers. Kernels must have ended before."""
        for live_log in list(self._live.values()):
            await live_log.aclose()
        await asyncio.to_thread(self._store.close)


def event_texts(event: Output) -> Iterator[TextEvent]:
    """Yields an output as texts: of a rich one its `text/plain`, or else its media types."""
    if isinstance(event, Stdout | Stderr):
        if event.content:
            yield event
        return
    if isinstance(event, ClearOutput | InputRequest):
        return
    plain = event.data.get("text/plain")
    if isinstance(plain, Utf8Text):
        yield from map(Stdout, plain.texts())
        yield Stdout("\n")
        return
    if not isinstance(plain, str):
        plain = f"[{', '.join(event.data)}]"
    yield Stdout(f"{plain}\n")

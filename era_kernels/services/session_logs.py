"""Session logs: what kernels print between and after runs is kept first, then told to followers.

A kernel says as much as it likes, and all of it is taken at once, so that no run waits for it. At
most MAX_PENDING_BYTES wait to be written, and no more than MAX_BYTES_PER_SECOND are written in a second: of a flood the
newest is kept, and an entry tells how much was left out. What fails here fails for the log alone.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from era_kernels.errors import StorageFailed
from era_kernels.models import ClearOutput, InputRequest, LoggedEvent, Output, Stderr, Stdout, now
from era_kernels.services.executions.live import RecentEvents
from era_kernels.storage.session_log import SessionLog, SessionLogStore, TextEvent, TimedText

log = logging.getLogger(__name__)

MAX_PENDING_BYTES = 1 << 20  # of text that waits to be written
MAX_BYTES_PER_SECOND = 4 << 20  # bytes that are written in a second
WRITE_INTERVAL = 0.02  # seconds between two writes, at least
RETRY_INTERVAL = 1.0  # seconds after a write that failed
ENTRY_OVERHEAD = 100  # what a text costs beside its characters, in bytes


@dataclass(frozen=True, slots=True)
class LogView:
    """What is kept of a session's log; `truncated`: there was more before it."""

    entries: list[LoggedEvent]
    truncated: bool


class PendingOutput:
    """Texts that wait to be written: the newest HELD_BYTES, and a count of what was left out."""

    def __init__(self) -> None:
        self._texts: deque[TimedText] = deque()
        self.size = 0
        self._dropped_chars = 0  # characters

    def __bool__(self) -> bool:
        return bool(self._texts or self._dropped_chars)

    def add(self, text: TextEvent) -> None:
        """Take a text. It must not be longer than a message of a kernel may be."""
        kept = type(text)(text.content[-MAX_PENDING_BYTES:])
        self._dropped_chars += len(text.content) - len(kept.content)
        self._texts.append((now(), kept))
        self.size += len(kept.content) + ENTRY_OVERHEAD
        while self.size > MAX_PENDING_BYTES + ENTRY_OVERHEAD:
            _, oldest = self._texts.popleft()
            self.size -= len(oldest.content) + ENTRY_OVERHEAD
            self._dropped_chars += len(oldest.content)

    def mark_lost(self, texts: Iterable[TimedText], dropped_chars: int) -> None:
        """What was taken could not be written: only its size is told."""
        self._dropped_chars += dropped_chars + sum(len(text.content) for _, text in texts)

    def drain(self) -> tuple[list[TimedText], int]:
        """All there is, neighbours of one stream made one, and what was left out before it."""
        taken: list[TimedText] = []
        for kind, group in groupby(self._texts, lambda one: type(one[1])):
            texts = list(group)
            taken.append((texts[0][0], kind("".join(text.content for _, text in texts))))
        dropped_chars = self._dropped_chars
        self._texts.clear()
        self.size = self._dropped_chars = 0
        return taken, dropped_chars


class LiveSessionLog:
    """The log of one session while somebody writes to it or follows it."""

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
        """Keep what a kernel printed. Returns at once and never raises."""
        if self._is_closed:
            return
        for event in events:
            text = event_text(event)
            if text is not None and text.content:
                self._pending.add(text)
        if self._pending and self._write_task is None:
            self._write_task = asyncio.create_task(self._write_pending())

    def close(self) -> None:
        """The session is gone: followers have seen all that they will see."""
        self._is_closed = True
        self._pending = PendingOutput()
        self._wake_followers()

    async def aclose(self) -> None:
        """Write what waits, then end."""
        self._is_closing = True
        if self._write_task is not None:
            await asyncio.wait([self._write_task])
        self.close()

    async def _write_pending(self) -> None:
        """One write after the other, until nothing waits."""
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
        except StorageFailed as problem:
            if not self._is_closed:
                self._pending.mark_lost(texts, dropped_chars)
                self._log_failure(problem)
            self._recent = RecentEvents()  # a part of them may stand in the file
            return False
        self._recent.extend(entries)
        self._wake_followers()
        return True

    def _log_failure(self, problem: StorageFailed) -> None:
        """The 1st, 2nd, 4th, 8th … failure is logged."""
        self._failure_count += 1
        if self._failure_count & (self._failure_count - 1) == 0:
            extra = {"count": self._failure_count, "why": problem.message}
            log.warning("late output could not be written", extra=extra)

    def _wake_followers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int) -> AsyncIterator[list[LoggedEvent]]:
        """Batches of entries after that number, then live ones, until the session is gone.

        A number that the log has not reached stands for its last. Raises StorageFailed.
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
    """Finds the logs of sessions, which are named by their directories."""

    def __init__(self, store: SessionLogStore) -> None:
        self._store = store
        # Whoever writes or follows keeps one alive; all the others are files.
        self._live: weakref.WeakValueDictionary[str, LiveSessionLog] = weakref.WeakValueDictionary()

    def live_log(self, directory: str) -> LiveSessionLog:
        """The log to write to, or to follow. There is at most one of each at a time."""
        found = self._live.get(directory)
        if found is None:
            found = self._live[directory] = LiveSessionLog(self._store.open_log(directory))
        return found

    async def view(self, directory: str) -> LogView:
        """What is kept now, oldest first. Raises StorageFailed."""
        entries = await self.live_log(directory).stored_log.read()
        return LogView(entries, truncated=bool(entries) and entries[0].seq > 1)

    async def follow(self, directory: str, after: int = 0) -> AsyncIterator[list[LoggedEvent]]:
        """See `LiveLog.follow`."""
        async for batch in self.live_log(directory).follow(after):
            yield batch

    def close(self, directory: str) -> None:
        """The session is gone."""
        if directory in self._live:
            self._live[directory].close()

    async def aclose(self) -> None:
        """Write what waits, let the followers go. Kernels are to have ended before."""
        for live_log in list(self._live.values()):
            await live_log.aclose()
        await asyncio.to_thread(self._store.close)


def event_text(event: Output) -> TextEvent | None:
    """An output as text: of a rich one its `text/plain`, or else the names of what it has."""
    if isinstance(event, Stdout | Stderr):
        return event
    if isinstance(event, ClearOutput | InputRequest):
        return None
    plain = event.data.get("text/plain")
    if not isinstance(plain, str):
        plain = f"[{', '.join(event.data)}]"
    return Stdout(f"{plain}\n")

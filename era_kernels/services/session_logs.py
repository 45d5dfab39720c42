"""Session logs: what kernels print between and after runs is kept first, then told to followers.

A kernel says as much as it likes, and all of it is taken at once, so that no run waits for it. At
most HELD_BYTES wait to be written, and no more than RATE are written in a second: of a flood the
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
from era_kernels.models import ClearOutput, InputRequest, Output, Recorded, Stderr, Stdout, now
from era_kernels.services.executions import Tail
from era_kernels.storage.session_log import SessionLog, SessionLogStore, TextEvent, TimedText

log = logging.getLogger(__name__)

HELD_BYTES = 1 << 20  # of text that waits to be written
RATE = 4 << 20  # bytes that are written in a second
PAUSE = 0.02  # seconds between two writes, at least
RETRY = 1.0  # seconds after a write that failed
COST = 100  # what a text costs beside its characters, in bytes


@dataclass(frozen=True, slots=True)
class LogView:
    """What is kept of a session's log; `truncated`: there was more before it."""

    entries: list[Recorded]
    truncated: bool


class Held:
    """Texts that wait to be written: the newest HELD_BYTES, and a count of what was left out."""

    def __init__(self) -> None:
        self._texts: deque[TimedText] = deque()
        self.size = 0
        self._left_out = 0  # characters

    def __bool__(self) -> bool:
        return bool(self._texts or self._left_out)

    def add(self, text: TextEvent) -> None:
        """Take a text. It must not be longer than a message of a kernel may be."""
        kept = type(text)(text.content[-HELD_BYTES:])
        self._left_out += len(text.content) - len(kept.content)
        self._texts.append((now(), kept))
        self.size += len(kept.content) + COST
        while self.size > HELD_BYTES + COST:
            _, oldest = self._texts.popleft()
            self.size -= len(oldest.content) + COST
            self._left_out += len(oldest.content)

    def lose(self, texts: Iterable[TimedText], left_out: int) -> None:
        """What was taken could not be written: only its size is told."""
        self._left_out += left_out + sum(len(text.content) for _, text in texts)

    def take(self) -> tuple[list[TimedText], int]:
        """All there is, neighbours of one stream made one, and what was left out before it."""
        taken: list[TimedText] = []
        for kind, group in groupby(self._texts, lambda one: type(one[1])):
            texts = list(group)
            taken.append((texts[0][0], kind("".join(text.content for _, text in texts))))
        left_out = self._left_out
        self._texts.clear()
        self.size = self._left_out = 0
        return taken, left_out


class LiveLog:
    """The log of one session while somebody writes to it or follows it."""

    def __init__(self, stored: SessionLog) -> None:
        self.stored = stored
        self._held = Held()
        self._tail = Tail()
        self._changed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._failures = 0
        self._ended = False
        self._hurried = False

    def take(self, events: Sequence[Output]) -> None:
        """Keep what a kernel printed. Returns at once and never raises."""
        if self._ended:
            return
        for event in events:
            text = text_of(event)
            if text is not None and text.content:
                self._held.add(text)
        if self._held and self._writer is None:
            self._writer = asyncio.create_task(self._write())

    def end(self) -> None:
        """The session is gone: followers have seen all that they will see."""
        self._ended = True
        self._held = Held()
        self._wake()

    async def finish(self) -> None:
        """Write what waits, then end."""
        self._hurried = True
        if self._writer is not None:
            await asyncio.wait([self._writer])
        self.end()

    async def _write(self) -> None:
        """One write after the other, until nothing waits."""
        try:
            while self._held:
                size = self._held.size
                written = await self._write_once()
                if not self._hurried:
                    await asyncio.sleep(max(PAUSE, size / RATE) if written else RETRY)
                elif not written:
                    return
        finally:
            self._writer = None

    async def _write_once(self) -> bool:
        texts, left_out = self._held.take()
        note = [(now(), Stderr(f"[... {left_out} characters left out ...]\n"))] if left_out else []
        try:
            entries = await self.stored.append([*note, *texts])
        except StorageFailed as problem:
            if not self._ended:
                self._held.lose(texts, left_out)
                self._failed(problem)
            self._tail = Tail()  # a part of them may stand in the file
            return False
        self._tail.extend(entries)
        self._wake()
        return True

    def _failed(self, problem: StorageFailed) -> None:
        """The 1st, 2nd, 4th, 8th … failure is logged."""
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            extra = {"count": self._failures, "why": problem.message}
            log.warning("late output could not be written", extra=extra)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int) -> AsyncIterator[list[Recorded]]:
        """Batches of entries after that number, then live ones, until the session is gone.

        A number that the log has not reached stands for its last. Raises StorageFailed.
        """
        after = min(after, await self.stored.last_seq())
        while not self._ended:
            changed = self._changed
            batch = self._tail.after(after) if self._tail.last_seq else None
            if batch is None:
                batch = await self.stored.read(after)
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
        self._live: weakref.WeakValueDictionary[str, LiveLog] = weakref.WeakValueDictionary()

    def live(self, directory: str) -> LiveLog:
        """The log to write to, or to follow. There is at most one of each at a time."""
        found = self._live.get(directory)
        if found is None:
            found = self._live[directory] = LiveLog(self._store.open_log(directory))
        return found

    async def view(self, directory: str) -> LogView:
        """What is kept now, oldest first. Raises StorageFailed."""
        entries = await self.live(directory).stored.read()
        return LogView(entries, truncated=bool(entries) and entries[0].seq > 1)

    async def follow(self, directory: str, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """See `LiveLog.follow`."""
        async for batch in self.live(directory).follow(after):
            yield batch

    def end(self, directory: str) -> None:
        """The session is gone."""
        if directory in self._live:
            self._live[directory].end()

    async def aclose(self) -> None:
        """Write what waits, let the followers go. Kernels are to have ended before."""
        for one in list(self._live.values()):
            await one.finish()
        await asyncio.to_thread(self._store.close)


def text_of(event: Output) -> TextEvent | None:
    """An output as text: of a rich one its `text/plain`, or else the names of what it has."""
    if isinstance(event, Stdout | Stderr):
        return event
    if isinstance(event, ClearOutput | InputRequest):
        return None
    plain = event.data.get("text/plain")
    if not isinstance(plain, str):
        plain = f"[{', '.join(event.data)}]"
    return Stdout(f"{plain}\n")

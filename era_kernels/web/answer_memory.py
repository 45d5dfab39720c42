"""Bounds the memory of large answers: they wait for each other where their clients do not read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

LARGE_BYTES = 1024 * 1024  # bytes of an answer from which on it is counted
MAX_BYTES = 256 * 1024 * 1024
COPIES = 2  # of an answer that are in memory: what it is made of, and its JSON
SLICE_BYTES = 256 * 1024  # bytes of it that are written at once
STALL_SECONDS = 10.0  # seconds that a client may read nothing of it while others wait
MINIMUM_RATE = 512 * 1024  # bytes that it must read each second, those seconds aside
CHECK_INTERVAL = 0.5  # seconds between two looks while some wait


class AnswerMemory:
    """Lets large answers be made while there is memory for them, one owner after the other.

    While others wait, an answer that its client reads too slowly is ended.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, stall_seconds: float = STALL_SECONDS) -> None:
        self._max_bytes = max_bytes
        self._stall_seconds = stall_seconds
        self.total = 0
        self._shares: dict[AnswerShare, None] = {}  # those that have memory
        # By owner, in the order in which these have their turns. None of the queues is empty.
        self._waiting: dict[object, deque[AnswerShare]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self, on_stalled: Callable[[], object]) -> AnswerShare:
        """Returns the share of one answer, which has no memory yet; `on_stalled` ends it."""
        return AnswerShare(self, on_stalled)

    def enter(self, share: AnswerShare) -> None:
        """Gives memory to a share, at once or when it is its turn."""
        self._waiting.setdefault(share.owner, deque()).append(share)
        self._admit()
        if self._waiting and self._timer is None:
            self._look()

    def leave(self, share: AnswerShare) -> None:
        """Takes back what a share has; it does not wait any more."""
        if share in self._shares:
            del self._shares[share]
            self.total -= share.size
        elif share in self._waiting.get(share.owner, ()):
            self._waiting[share.owner].remove(share)
            if not self._waiting[share.owner]:
                del self._waiting[share.owner]
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            share = self._waiting[owner][0]
            if self._shares and self.total + share.size > self._max_bytes:
                return
            queue = self._waiting.pop(owner)
            queue.popleft()
            if queue:
                self._waiting[owner] = queue  # behind the others
            self._shares[share] = None
            self.total += share.size
            share.admit()

    def _look(self) -> None:
        """Ends answers that are read too slowly, while others wait."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for share in tuple(self._shares):
            if share.is_slower_than(MINIMUM_RATE, self._stall_seconds):
                share.end()
        if self._waiting:
            self._timer = loop.call_later(CHECK_INTERVAL, self._look)


class AnswerShare:
    """What one answer takes of the memory."""

    def __init__(self, memory: AnswerMemory, on_stalled: Callable[[], object]) -> None:
        self.owner: object = None  # in whose name it takes memory
        self.size = 0  # bytes that it takes or waits for
        self._memory = memory
        self._on_stalled = on_stalled
        self._admitted: asyncio.Future[None] | None = None
        self._sending_since: float | None = None  # in the loop's time
        self._sent_bytes = 0

    async def take(self, size: int, owner: object) -> None:
        """Waits until there is memory for an answer of that many bytes.

        Does nothing when it has been called before.
        """
        if self.size:
            return
        self.size, self.owner = COPIES * size, owner
        self._admitted = asyncio.get_running_loop().create_future()
        self._memory.enter(self)
        await self._admitted

    def admit(self) -> None:
        """Ends the wait."""
        if self._admitted is not None and not self._admitted.done():
            self._admitted.set_result(None)

    def begin_sending(self) -> None:
        """Notes that the answer is made: from here on its client has to read it."""
        self._sending_since = asyncio.get_running_loop().time()

    def sent(self, size: int) -> None:
        """Notes how many bytes more the client has taken."""
        self._sent_bytes += size

    def is_slower_than(self, rate: float, patience: float) -> bool:
        """Returns whether the client takes fewer bytes a second, those seconds aside."""
        if self._sending_since is None:
            return False
        deadline = self._sending_since + patience + self._sent_bytes / rate
        return asyncio.get_running_loop().time() > deadline

    def end(self) -> None:
        """Ends the answer, because its client is too slow."""
        self._on_stalled()

    def close(self) -> None:
        """Gives the memory back. A second call does nothing."""
        if self.size:
            self._memory.leave(self)


def in_slices(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the same bytes in pieces of about SLICE_BYTES."""
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        small.append(piece)
        size += len(piece)
        if size < SLICE_BYTES:
            continue
        whole = b"".join(small)
        small.clear()
        size = 0
        for start in range(0, len(whole), SLICE_BYTES):
            yield whole[start : start + SLICE_BYTES]
    if small:
        yield b"".join(small)

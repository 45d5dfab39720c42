"""The queue of a session holds its runs and copies: one at a time, first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from era_kernels.errors import QueueFull
from era_kernels.services.kernel_limiter import RETRY_AFTER_SECONDS


class QueueItem(Protocol):
    """Names what the queue needs of what is in it."""

    has_machine: bool  # the session's machine was given to it
    done: asyncio.Event  # set when its turn is over

    @property
    def is_over(self) -> bool:
        """True when callers know of its end already, though its turn is not over yet."""

    def set_position(self, position: int) -> None:
        """Tells it how many others are before it."""

    async def run(self) -> None:
        """Does its work: it is its turn. Must not raise."""


class QueueSlot:
    """A turn in the queue for a caller that works outside it: `ready` is set when it comes."""

    has_machine = False
    is_over = False

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.done = asyncio.Event()

    def set_position(self, position: int) -> None:
        """Does nothing: the caller only waits."""

    async def run(self) -> None:
        """Wakes the caller; returns when it is done."""
        self.ready.set()
        await self.done.wait()


class RunQueue:
    """Runs the items of one session, one at a time, in order of arrival.

    The first stays in the queue while it runs; `on_idle` is called when the queue is empty, and may
    not raise.
    """

    def __init__(self, max_waiting: int, on_idle: Callable[[], Awaitable[None]]) -> None:
        self._max_waiting = max_waiting
        self._on_idle = on_idle
        self._items: deque[QueueItem] = deque()
        self._current: QueueItem | None = None
        self._worker: asyncio.Task[None] | None = None
        self.idle_since = time.monotonic()

    def __len__(self) -> int:
        """Returns how many items run or wait."""
        return len(self._items)

    @property
    def with_machine(self) -> list[QueueItem]:
        """The items that have the machine: one run, or none."""
        return [item for item in self._items if item.has_machine]

    @property
    def is_busy(self) -> bool:
        """True while an item runs or waits: one that comes now has to wait for it."""
        return bool(self._not_over())

    @property
    def is_working(self) -> bool:
        return self._worker is not None and not self._worker.done()

    def check_capacity(self) -> None:
        """Raises QueueFull when `max_waiting` items wait already."""
        count = len(self._not_over())
        if count > self._max_waiting:
            raise QueueFull(
                f"{count - 1} runs wait in this session already.",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def add(self, item: QueueItem) -> None:
        self._items.append(item)
        self.wake()

    def remove(self, item: QueueItem) -> bool:
        """Removes an item that still waits; those behind it move up.

        Returns False if the item runs or is done.
        """
        if item is self._current or item.done.is_set():
            return False
        item.done.set()
        self._items.remove(item)
        self._update_positions()
        return True

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a slot in the queue and holds it while the context is open.

        A caller that is cancelled while waiting gives the slot back. Raises QueueFull.
        """
        self.check_capacity()
        slot = QueueSlot()
        self.add(slot)
        try:
            await slot.ready.wait()
            yield
        finally:
            self.remove(slot)
            slot.done.set()

    def position(self, item: QueueItem) -> int:
        """Returns how many items are before this one."""
        return self._not_over().index(item)

    def wake(self) -> None:
        """Starts the worker unless it works: it runs all items, then calls `on_idle`."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run_all())

    async def wait_idle(self) -> None:
        """Waits until no item runs or waits, and `on_idle` has returned."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _run_all(self) -> None:
        has_idled = False
        while self._items or not has_idled:
            has_idled = not self._items
            if has_idled:
                await self._on_idle()
                continue
            item = self._current = self._items[0]
            try:
                await item.run()
            finally:
                self._current = None
                self._items.remove(item)
                item.done.set()
                self.idle_since = time.monotonic()
                if self._items:
                    self._update_positions()

    def _not_over(self) -> list[QueueItem]:
        return [item for item in self._items if not item.is_over]

    def _update_positions(self) -> None:
        for position, item in enumerate(self._not_over()):
            item.set_position(position)

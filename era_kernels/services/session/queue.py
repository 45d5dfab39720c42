"""The queue of a session holds its runs and copies: one at a time, first come, first served."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from era_kernels.errors import QueueFull
from era_kernels.models import Submission
from era_kernels.services.capacity import RETRY_AFTER_SECONDS
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.session.cancellation import Cancellation


@dataclass(slots=True, eq=False, kw_only=True)
class QueueSlot:
    """A place in the queue: `ready` is set when it comes to the front, `done` when it is over."""

    has_machine: bool = False  # the session's machine was given to it
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, run_queued: Callable[[QueuedRun], Awaitable[None]]) -> None:
        """Wakes the holder of the slot; returns when the slot is done."""
        self.ready.set()
        await self.done.wait()

    def set_position(self, position: int) -> None:
        """Sets how many slots are before this one."""

    @property
    def is_over(self) -> bool:
        """True when callers know of its end already, though its place is not free yet."""
        return False


@dataclass(slots=True, eq=False)
class QueuedRun(QueueSlot):
    """A run's place in the queue.

    `open_task` ends when the run's log is open, or could not be opened.
    """

    submission: Submission
    timeout: float
    cancellation: Cancellation
    queued_at: float = field(default_factory=time.monotonic)
    open_task: asyncio.Task[LiveExecution] | None = None
    execution: LiveExecution | None = None

    async def run(self, run_queued: Callable[[QueuedRun], Awaitable[None]]) -> None:
        await run_queued(self)

    @property
    def is_over(self) -> bool:
        return self.execution is not None and self.execution.done_event is not None

    def set_position(self, position: int) -> None:
        if self.execution is not None:
            self.execution.execution = dataclasses.replace(
                self.execution.execution, position=position or None
            )


class RunQueue:
    """Runs the slots of one session, one at a time, in order of arrival.

    `run_queued` runs the first, which stays in the queue meanwhile; `on_idle` is called when the
    queue is empty. Neither may raise.
    """

    def __init__(
        self,
        max_waiting: int,
        run_queued: Callable[[QueuedRun], Awaitable[None]],
        on_idle: Callable[[], Awaitable[None]],
    ) -> None:
        self._max_waiting = max_waiting
        self._run_queued = run_queued
        self._on_idle = on_idle
        self._slots: deque[QueueSlot] = deque()
        self._current: QueueSlot | None = None
        self._worker: asyncio.Task[None] | None = None
        self.idle_since = time.monotonic()

    def __len__(self) -> int:
        """Returns how many slots run or wait."""
        return len(self._slots)

    @property
    def slots_with_machine(self) -> list[QueueSlot]:
        """The slots that have the machine: one run, or none."""
        return [slot for slot in self._slots if slot.has_machine]

    @property
    def is_busy(self) -> bool:
        """True while a slot runs or waits: one that comes now has to wait for it."""
        return any(not slot.is_over for slot in self._slots)

    @property
    def is_working(self) -> bool:
        return self._worker is not None and not self._worker.done()

    def check_capacity(self) -> None:
        """Raises QueueFull when `max_waiting` slots wait already."""
        if len(self) > self._max_waiting:
            raise QueueFull(
                f"{len(self) - 1} runs wait in this session already.",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def add(self, slot: QueueSlot) -> None:
        self._slots.append(slot)
        self.wake()

    def remove(self, slot: QueueSlot) -> bool:
        """Removes a slot that still waits; those behind it move up.

        Returns False if the slot runs or is done.
        """
        if slot is self._current or slot.done.is_set():
            return False
        slot.done.set()
        self._slots.remove(slot)
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

    def position(self, slot: QueueSlot) -> int:
        """Returns how many slots are before this one."""
        return self._slots.index(slot)

    def wake(self) -> None:
        """Starts the worker unless it works: it runs all slots, then calls `on_idle`."""
        if not self.is_working:
            self._worker = asyncio.create_task(self._run_all())

    async def wait_idle(self) -> None:
        """Waits until no slot runs or waits, and `on_idle` has returned."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _run_all(self) -> None:
        has_idled = False
        while self._slots or not has_idled:
            has_idled = not self._slots
            if has_idled:
                await self._on_idle()
                continue
            slot = self._current = self._slots[0]
            try:
                await slot.run(self._run_queued)
            finally:
                self._current = None
                self._slots.remove(slot)
                slot.done.set()
                self.idle_since = time.monotonic()
                self._update_positions()

    def _update_positions(self) -> None:
        for position, slot in enumerate(self._slots):
            slot.set_position(position)

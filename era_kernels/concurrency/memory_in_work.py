"""Bounds the memory of all that comes in at the same time: where it gets short, the greediest wait.

Everything that holds bytes of others has a holding: a body, an upload, a kernel's message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_BYTES = 512 * 1024 * 1024
MINIMUM_BYTES = 1024 * 1024  # bytes that each may hold in any case
STALL_SECONDS = 10.0  # seconds that the one that may go on alone may stand still
MINIMUM_RATE = 512 * 1024  # bytes that it must get each second, those seconds aside
CHECK_INTERVAL = 0.1  # seconds between two looks while some wait


class MemoryInWork:
    """Counts bytes of all holdings. Past the bound one goes on alone, the largest of all that want.

    So there is always one that comes to its end. While others wait, one that stands still or is
    slower than MINIMUM_RATE is ended. What settled ones keep is bounded, too: past the same bound
    nobody goes on before one of them is closed. They never wait for those that rest.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, stall_seconds: float = STALL_SECONDS) -> None:
        self.max_bytes = max_bytes
        self.total = 0
        self.received = 0  # bytes that were ever counted
        self._stall_seconds = stall_seconds
        self._resting: dict[Holding, None] = {}  # those that were not allowed to go on
        self._settled_bytes = 0
        self._chosen: Holding | None = None  # the one that goes on alone
        self._chosen_at, self._chosen_bytes = 0.0, 0  # since when others wait, what it had got then
        self._timer: asyncio.TimerHandle | None = None

    def open(self, on_stalled: Callable[[], object] | None = None) -> Holding:
        """Returns a new holding; `on_stalled` ends what it stands for."""
        return Holding(self, on_stalled)

    def may_go_on(self, holding: Holding) -> bool:
        """Returns whether a holding may grow; one that may not asks again."""
        if self.total <= self.max_bytes or holding.size <= MINIMUM_BYTES:
            self._resting.pop(holding, None)
            return True
        if not self._is_waited_for():
            self._begin_turn()
        self._resting[holding] = None
        self._choose()
        # One that was too slow may have given back what it held.
        if self._chosen is holding or self.total <= self.max_bytes:
            self._resting.pop(holding, None)
            return True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._look)
        return False

    def counted(self, holding: Holding, change: int) -> None:
        """Counts how many bytes more (or less) a holding has."""
        self.total += change
        self.received += max(change, 0)
        if holding.is_settled:
            self._settled_bytes += change
        if change < 0:
            self._wake()

    def settle(self, holding: Holding) -> None:
        """Notes that a holding grows no more, and lets another one go on instead."""
        if not holding.is_settled:
            holding.is_settled = True
            self._settled_bytes += holding.size
        self.forget(holding)

    def forget(self, holding: Holding) -> None:
        """Lets another one go on instead of this one."""
        self._resting.pop(holding, None)
        if self._chosen is holding:
            self._chosen = None
            self._wake()

    def _look(self) -> None:
        self._timer = None
        self._wake()
        if self._resting:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._look)

    def _wake(self) -> None:
        """Wakes all while there is memory, else the one that may go on alone."""
        if self.total <= self.max_bytes:
            self._chosen = None
            for holding in tuple(self._resting):
                holding.wake()
            self._resting.clear()
        elif self._resting:
            self._choose()
            if self._chosen in self._resting:
                self._chosen.wake()

    def _choose(self) -> None:
        if self._chosen is not None:
            if not self._is_waited_for() or not self._is_too_slow(self._chosen):
                return
            slow, self._chosen = self._chosen, None
            self._resting.pop(slow, None)
            slow.end()
        if self._resting and self._settled_bytes <= self.max_bytes:
            self._chosen = max(self._resting, key=lambda one: one.size)
            self._begin_turn()

    def _is_waited_for(self) -> bool:
        return any(one is not self._chosen for one in self._resting)

    def _begin_turn(self) -> None:
        """Measures from now on how quick the one is that goes on alone."""
        if self._chosen is not None:
            self._chosen_at = asyncio.get_running_loop().time()
            self._chosen_bytes = self._chosen.received

    def _is_too_slow(self, chosen: Holding) -> bool:
        if not chosen.is_reading:
            return False
        received = chosen.received - self._chosen_bytes
        still_since = max(chosen.moved_at, self._chosen_at)
        deadline = min(still_since, self._chosen_at + received / MINIMUM_RATE) + self._stall_seconds
        return asyncio.get_running_loop().time() > deadline


class Holding:
    """The bytes of one body, upload or message."""

    __slots__ = (
        "_memory", "_on_stalled", "_waiter", "is_reading", "is_settled", "moved_at", "received",
        "size",
    )  # fmt: skip

    def __init__(self, memory: MemoryInWork, on_stalled: Callable[[], object] | None) -> None:
        self.size = 0
        self.received = 0  # bytes by which it ever grew
        self.is_settled = False
        self.moved_at = 0.0  # in the loop's time; kept only past the minimum
        self.is_reading = True  # else it works on what it has, which takes as long as it takes
        self._memory = memory
        self._on_stalled = on_stalled
        self._waiter: asyncio.Future[None] | None = None

    def set(self, size: int) -> None:
        """Sets how many bytes there are."""
        change, self.size = size - self.size, size
        if not change:
            return
        self.received += max(change, 0)
        if size > MINIMUM_BYTES:
            self.moved_at = asyncio.get_running_loop().time()
        self._memory.counted(self, change)

    def may_go_on(self) -> bool:
        """Returns whether there may be more."""
        return self.size <= MINIMUM_BYTES or self._memory.may_go_on(self)

    async def wait(self) -> None:
        """Waits until there may be more."""
        while not self.may_go_on():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        """Lets `wait` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def settle(self) -> None:
        """Notes that there will not be more: another one may go on."""
        self._memory.settle(self)

    def end(self) -> None:
        """Ends what the holding stands for, because it is too slow."""
        if self._on_stalled is not None:
            self._on_stalled()

    def close(self) -> None:
        """Counts nothing more. A second call does nothing."""
        self.set(0)
        self._memory.forget(self)
        self.wake()

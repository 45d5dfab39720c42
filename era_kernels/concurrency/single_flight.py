"""Lets any number of callers share one task that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from era_kernels.concurrency.background import cancel_and_wait

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs a coroutine at most once at a time; its callers share the result.

    A caller that comes while it runs waits for the same task. A cancelled caller leaves the task
    to the others.
    """

    def __init__(
        self, start: Callable[[], Coroutine[Any, Any, T]], *, ends_with_callers: bool = False
    ) -> None:
        """`start` makes the coroutine, anew after each one that has ended.

        `ends_with_callers`: it is cancelled when the last caller has been; else it goes on.
        """
        self._start = start
        self._ends_with_callers = ends_with_callers
        self._caller_count = 0
        self._task: asyncio.Task[T] | None = None

    @property
    def is_idle(self) -> bool:
        """True while no task is under way."""
        return self._task is None

    async def run_fresh(self) -> T:
        """Returns the result of a task that began no earlier than this call, and raises its error.

        All who come while one is under way share the next.
        """
        if self._task is not None:
            await asyncio.wait([self._task])
        return await self.run()

    async def run(self) -> T:
        """Returns the result of the task under way, or of a new one. Raises what it raises."""
        if self._task is None:
            self._task = asyncio.create_task(self._start())
            self._task.add_done_callback(self._on_done)
        task = self._task
        self._caller_count += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._caller_count -= 1
            if self._ends_with_callers and not self._caller_count:
                self._task = None  # who comes meanwhile begins anew
                await cancel_and_wait(task)

    def _on_done(self, task: asyncio.Task[T]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved: each caller has seen it


class SingleFlights(Generic[K, T]):
    """Runs a coroutine at most once at a time for each key; its callers share the result."""

    def __init__(self, start: Callable[[K], Coroutine[Any, Any, T]]) -> None:
        """`start` makes the coroutine for a key."""
        self._start = start
        self._flights: dict[K, SingleFlight[T]] = {}

    async def run_fresh(self, key: K) -> T:
        """Returns the result of a task for the key that began no earlier than this call."""
        flight = self._flights.setdefault(key, SingleFlight(partial(self._start, key)))
        try:
            return await flight.run_fresh()
        finally:
            if flight.is_idle and self._flights.get(key) is flight:
                self.forget(key)

    def __len__(self) -> int:
        """Returns how many are under way."""
        return len(self._flights)

    def forget(self, key: K) -> None:
        """Lets the next call begin anew, whatever is under way."""
        self._flights.pop(key, None)

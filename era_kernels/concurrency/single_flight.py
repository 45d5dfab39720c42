"""Lets any number of callers share one task that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs a coroutine at most once at a time; its callers share the result.

    A caller that comes while it runs waits for the same task. A cancelled caller leaves the task
    to the others.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """`start` makes the coroutine, anew after each one that has ended."""
        self._start = start
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
        return await asyncio.shield(self._task)

    def _on_done(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved: each caller has seen it

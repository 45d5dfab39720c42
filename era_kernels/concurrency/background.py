"""Errands: steps that run to their end, also when who asked for them has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from era_kernels.errors import EraError

log = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """Starts them, and waits for all of them in the end. What is no domain error is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Nobody needs to wait for it."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def run_shielded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. When the caller is cancelled the errand goes on, half-done is never left."""
        return await asyncio.shield(self.spawn(coroutine))

    async def aclose(self) -> None:
        """Wait for those that are under way, and for those that they start."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        problem = task.exception()
        if problem is not None and not isinstance(problem, EraError):
            log.error("an errand failed", exc_info=problem)

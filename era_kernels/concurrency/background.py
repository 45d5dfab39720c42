"""Runs coroutines to their end, even when their callers were cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """Starts tasks, logs their unexpected failures, and waits for all of them when it is closed."""

    def __init__(self, *, expected_errors: tuple[type[BaseException], ...] = ()) -> None:
        """Starts with no task; failures of the types in `expected_errors` are not logged."""
        self._expected_errors = expected_errors
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task, which the caller need not wait for."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def run_shielded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Returns the coroutine's result; runs it to its end if the caller is cancelled."""
        return await asyncio.shield(self.spawn(coroutine))

    async def aclose(self) -> None:
        """Waits for the tasks that are running, and for those that they start."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, self._expected_errors):
            log.error("a background task failed", exc_info=error)


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancels a task whose result is not needed any more, and ignores its exception."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()

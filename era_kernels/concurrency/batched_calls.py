"""Makes the calls of many callers together, once in each round of the event loop."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

MAX_BATCH = 64  # calls that are made together at most: the first must not wait for too many


class BatchedCalls(Generic[A, R]):
    """Gathers arguments while the loop is busy, and hands them on as one list.

    What costs the same for one as for many, such as a hop to a thread, is paid once.
    """

    def __init__(self, make_calls: Callable[[Sequence[A]], Awaitable[Sequence[R | Exception]]]):
        """`make_calls` returns a result for each argument, or the error that its caller gets.

        What it raises, all callers of the batch get.
        """
        self._make_calls = make_calls
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, argument: A) -> R:
        """Returns the result for an argument. The call is made also when its caller is gone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((argument, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), MAX_BATCH):
            task = asyncio.create_task(self._run(waiting[first : first + MAX_BATCH]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        results: Sequence[R | Exception]
        try:
            results = await self._make_calls([argument for argument, _ in batch])
        except Exception as error:
            # A shared exception would grow a traceback from each caller.
            results = [copy.copy(error) for _ in batch]
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

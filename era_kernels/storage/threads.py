"""Threads for what blocks: pools by purpose, and lanes that keep an order.

Not `concurrent.futures`: its futures are chained to asyncio's, and a hop to a thread and back costs
130 µs instead of 75 (tried), which every run pays several times.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from era_kernels.errors import StorageFailed
from era_kernels.storage.failures import FOREIGN, failure_of

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
Jobs = queue.SimpleQueue[Callable[[], object] | None]  # None ends the threads


class Threads:
    """A few threads of one purpose; they start when they are needed."""

    def __init__(self, name: str, count: int) -> None:
        self._name = f"era-{name}"
        self._count = count
        self._jobs: Jobs = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Also when nobody closes it, which tests may forget.
        self._end = weakref.finalize(self, self._jobs.put, None)

    def start(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Run it in a thread; it goes on whatever becomes of the future.

        The future raises what the function raises, OSError and sqlite3.Error in domain words;
        StorageFailed when the threads are closed.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        if self._end.alive:
            self._submit(partial(_perform, loop, answer, partial(function, *arguments)))
        else:
            answer.set_exception(StorageFailed("The store is closed."))
        return answer

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run it in a thread and wait for it. Raises what `start` says."""
        return await self.start(function, *arguments)

    def hand_over(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """Run it in a thread, for nobody waits; callable from any thread. It must not raise."""
        if self._end.alive:
            self._submit(partial(function, *arguments))

    def close(self) -> None:
        """Finish what was started (blocking); nothing starts any more. A second call is fine."""
        self._end()
        for thread in self._threads:
            thread.join()

    def _submit(self, job: Callable[[], object]) -> None:
        if len(self._threads) < self._count:
            thread = threading.Thread(
                target=_work, args=(self._jobs,), name=self._name, daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)


class Lane:
    """Runs functions one at a time, in the order of the calls, whatever becomes of the callers."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiting: deque[tuple[Threads, Callable[[], Any], asyncio.Future[Any]]] = deque()
        self.busy = False

    def start(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Run it when its turn comes, whatever becomes of the future. It raises as Threads' do."""
        return self.start_on(self._threads, function, *arguments)

    def start_on(
        self, threads: Threads, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """The same in other threads, for what would keep the lane's own from others too long."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((threads, partial(function, *arguments), answer))
        self._next()
        return answer

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Wait for the turn and the outcome."""
        return await self.start(function, *arguments)

    def _next(self) -> None:
        if self.busy or not self._waiting:
            return
        threads, function, answer = self._waiting.popleft()
        self.busy = True
        threads.start(function).add_done_callback(partial(self._done, answer))

    def _done(self, answer: asyncio.Future[Any], outcome: asyncio.Future[Any]) -> None:
        self.busy = False
        self._next()
        error = outcome.exception()
        _tell(answer, None if error else outcome.result(), error)


def _work(jobs: Jobs) -> None:
    while _work_once(jobs):
        pass
    jobs.put(None)  # for the other threads


def _work_once(jobs: Jobs) -> bool:
    """In a function of its own, so that an idle thread keeps nothing of its last job alive."""
    job = jobs.get()
    if job is not None:
        job()
    return job is not None


def _perform(
    loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], function: Callable[[], T]
) -> None:
    result: T | None = None
    error: BaseException | None = None
    try:
        result = function()
    except FOREIGN as foreign:
        error = failure_of(foreign)
        error.__cause__ = foreign
    except BaseException as own:
        error = own
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(_tell, answer, result, error)


def _tell(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():  # its caller was cancelled
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)

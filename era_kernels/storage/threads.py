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
from era_kernels.storage.error_mapping import FOREIGN_ERRORS, to_domain_error

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
JobQueue = queue.SimpleQueue[Callable[[], object] | None]  # None ends the threads


class StorageThreads:
    """A few threads of one purpose; they start when they are needed."""

    def __init__(self, name: str, count: int) -> None:
        self._name = f"era-{name}"
        self._count = count
        self._jobs: JobQueue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Also when nobody closes it, which tests may forget.
        self._finalizer = weakref.finalize(self, self._jobs.put, None)

    def submit(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Run it in a thread; it goes on whatever becomes of the future.

        The future raises what the function raises, OSError and sqlite3.Error in domain words;
        StorageFailed when the threads are closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._finalizer.alive:
            self._enqueue(partial(_run_and_resolve, loop, future, partial(function, *arguments)))
        else:
            future.set_exception(StorageFailed("The store is closed."))
        return future

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run it in a thread and wait for it. Raises what `submit` says."""
        return await self.submit(function, *arguments)

    def submit_detached(
        self, function: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        """Run it in a thread, for nobody waits; callable from any thread. It must not raise."""
        if self._finalizer.alive:
            self._enqueue(partial(function, *arguments))

    def close(self) -> None:
        """Finish what was started (blocking); nothing starts any more. A second call is fine."""
        self._finalizer()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, job: Callable[[], object]) -> None:
        if len(self._threads) < self._count:
            thread = threading.Thread(
                target=_run_jobs, args=(self._jobs,), name=self._name, daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)


class SerialExecutor:
    """Runs functions one at a time, in the order of the calls, whatever becomes of the callers."""

    def __init__(self, threads: StorageThreads) -> None:
        self._threads = threads
        self._queue: deque[tuple[StorageThreads, Callable[[], Any], asyncio.Future[Any]]] = deque()
        self.is_busy = False

    def submit(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Run it when its turn comes, whatever becomes of the future. It raises as Threads' do."""
        return self.submit_to(self._threads, function, *arguments)

    def submit_to(
        self, threads: StorageThreads, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """The same in other threads, for what would keep the lane's own from others too long."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((threads, partial(function, *arguments), future))
        self._start_next()
        return future

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Wait for the turn and the outcome."""
        return await self.submit(function, *arguments)

    def _start_next(self) -> None:
        if self.is_busy or not self._queue:
            return
        threads, function, future = self._queue.popleft()
        self.is_busy = True
        threads.submit(function).add_done_callback(partial(self._on_done, future))

    def _on_done(self, future: asyncio.Future[Any], outcome: asyncio.Future[Any]) -> None:
        self.is_busy = False
        self._start_next()
        error = outcome.exception()
        _resolve_future(future, None if error else outcome.result(), error)


def _run_jobs(jobs: JobQueue) -> None:
    while _run_one_job(jobs):
        pass
    jobs.put(None)  # for the other threads


def _run_one_job(jobs: JobQueue) -> bool:
    """In a function of its own, so that an idle thread keeps nothing of its last job alive."""
    job = jobs.get()
    if job is not None:
        job()
    return job is not None


def _run_and_resolve(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], function: Callable[[], T]
) -> None:
    result: T | None = None
    error: BaseException | None = None
    try:
        result = function()
    except FOREIGN_ERRORS as foreign:
        error = to_domain_error(foreign)
        error.__cause__ = foreign
    except BaseException as own:
        error = own
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(_resolve_future, future, result, error)


def _resolve_future(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

"""Runs blocking functions in threads: pools by purpose, and executors that keep an order.

`concurrent.futures` is not used: its futures are chained to asyncio's, and a hop to a thread and
back costs 130 µs instead of 75 (measured), which every run pays several times.
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

from era_kernels.errors import StorageFailed, StorageUnavailable
from era_kernels.storage.error_mapping import FOREIGN_ERRORS, to_domain_error

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
JobQueue = queue.SimpleQueue[Callable[[], object] | None]  # None ends the threads


class StorageThreads:
    """A pool of a few threads for one purpose, which start when they are needed."""

    def __init__(self, name: str, count: int) -> None:
        self._name = f"era-{name}"
        self._count = count
        self._jobs: JobQueue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Ends the threads also without a call of `close`, which tests may forget.
        self._finalizer = weakref.finalize(self, self._jobs.put, None)

    def submit(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Runs a function in a thread, to its end also when the future is cancelled.

        The future raises what the function raises, but domain errors for OSError and
        sqlite3.Error; StorageFailed when the threads are closed, StorageUnavailable when there is
        none and the system starts none: then the function is never run.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._finalizer.alive:
            future.set_exception(StorageFailed("The store is closed."))
        elif not self._have_thread():
            text = "The system starts no more threads for the server; later it may."
            future.set_exception(StorageUnavailable(text, retry_after=1))
        else:
            self._jobs.put(partial(_run_and_resolve, loop, future, partial(function, *arguments)))
        return future

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Runs a function in a thread and returns its result. Raises as `submit` says."""
        return await self.submit(function, *arguments)

    def submit_detached(
        self, function: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        """Runs a function, which must not raise, without a future; callable from any thread.

        Where the system starts no thread, it waits for the first one, or for `close`.
        """
        if self._finalizer.alive:
            self._have_thread()
            self._jobs.put(partial(function, *arguments))

    def close(self) -> None:
        """Finishes all submitted functions (blocking), accepts no more; may be repeated."""
        self._finalizer()
        for thread in self._threads:
            thread.join()
        if not self._threads:
            _run_jobs(self._jobs)

    def _have_thread(self) -> bool:
        """Starts one more thread if there may be more; returns whether there is any.

        Code of sessions can use up the threads that the system gives the server's user: then those
        that there are do all the work, and the next call tries again.
        """
        if len(self._threads) < self._count:
            thread = threading.Thread(
                target=_run_jobs, args=(self._jobs,), name=self._name, daemon=True
            )
            with suppress(RuntimeError):
                thread.start()
                self._threads.append(thread)
        return bool(self._threads)


class SerialExecutor:
    """Runs functions one at a time, in the order of the calls, also when callers are cancelled."""

    def __init__(self, threads: StorageThreads) -> None:
        self._threads = threads
        self._queue: deque[tuple[StorageThreads, Callable[[], Any], asyncio.Future[Any]]] = deque()
        self.is_busy = False

    def submit(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Runs a function after all earlier ones; the future is as `StorageThreads.submit` says."""
        return self.submit_to(self._threads, function, *arguments)

    def submit_to(
        self, threads: StorageThreads, function: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        """Submits a function to other threads, when it would block this executor's own too long."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((threads, partial(function, *arguments), future))
        self._start_next()
        return future

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Runs a function after all earlier ones, and returns its result."""
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
    """Runs one job, in its own stack frame: an idle thread keeps nothing of its last job alive."""
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
    with suppress(RuntimeError):  # the loop is closed, so no caller waits
        loop.call_soon_threadsafe(_resolve_future, future, result, error)


def _resolve_future(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

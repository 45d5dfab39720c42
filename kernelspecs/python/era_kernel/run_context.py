"""Finds the run that a piece of code belongs to, also in a thread, a thread pool or a task.

Tasks and timers of an event loop copy the context that they were made in. Threads do not, so each
remembers the run that started it; work for a thread pool remembers the run that submitted it.
"""

from __future__ import annotations

import codecs
import concurrent.futures
import concurrent.futures.thread
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


class OutputStream:
    """An output stream of a run, stdout or stderr, which decodes bytes to whole characters."""

    def __init__(self, name: str, parent_header: dict[str, Any]) -> None:
        self.name = name
        self.parent_header = parent_header  # of the request that its output belongs to
        self.is_late = False  # the run is over, and all that it wrote until then was sent
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode


class RunContext:
    """A request to run code, from its start until the last thread that it started ends."""

    def __init__(
        self, parent_header: dict[str, Any], number: int = 0, fence_nonce: str | None = None
    ) -> None:
        self.parent_header = parent_header
        self.number = number
        self.fence_nonce = fence_nonce  # sent after all output; None: nobody waits for it
        self.cell_name = f"<cell {number}>"  # what tracebacks call its code
        self.is_silent = False  # the client asked for no execute_input and no result
        self.has_error_messages = False  # failures are `error` messages, as clients of Jupyter wish
        self.stdin_client: list[bytes] | None = None  # who answers `input()` on the channel stdin
        self.stdout = OutputStream("stdout", parent_header)
        self.stderr = OutputStream("stderr", parent_header)
        self.futures: set[concurrent.futures.Future[Any]] = set()


_current: ContextVar[RunContext] = ContextVar("era_run")
_active_threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
_latest_run = RunContext({})


def set_current(run: RunContext) -> None:
    """Makes code of this context belong to `run`, from here on."""
    global _latest_run
    _latest_run = run
    _current.set(run)


def current() -> RunContext:
    """Returns the run of the calling code; the latest run where that is not known."""
    run = _current.get(None)
    if run is None:
        thread = _active_threads.get(threading.get_ident())
        run = getattr(thread, "_era_run", _latest_run)
    return run


def list_threads(run: RunContext) -> list[threading.Thread]:
    """Returns the threads that a plain interpreter waits for at its end, without those of pools."""
    pools = concurrent.futures.thread._threads_queues  # type: ignore[attr-defined]
    return [
        thread
        for thread in _running_threads()
        if getattr(thread, "_era_run", None) is run
        and not thread.daemon
        and thread not in pools
        and type(thread).__name__ != "_ExecutorManagerThread"
    ]


def _running_threads() -> list[threading.Thread]:
    """Returns what `threading.enumerate` does, by no code that looks up builtins."""
    for _ in range(10):
        try:
            return [*_active_threads.values()]
        except RuntimeError:  # a thread started or ended meanwhile
            continue
    return []


class _BoundToRun:
    """A function that runs in another thread for the run that submitted it."""

    __slots__ = ("_function", "_run")

    def __init__(self, run: RunContext, function: Callable[..., Any]) -> None:
        self._run = run
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = _current.set(self._run)
        try:
            return self._function(*args, **kwargs)
        finally:
            _current.reset(token)


def install() -> None:
    """Makes threads and thread pools remember their runs."""
    start = threading.Thread.start
    submit = concurrent.futures.ThreadPoolExecutor.submit

    def start_with_run(self: threading.Thread) -> None:
        self._era_run = current()  # type: ignore[attr-defined]
        start(self)

    def submit_with_run(
        self: concurrent.futures.ThreadPoolExecutor,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> concurrent.futures.Future[Any]:
        run = current()
        future = submit(self, _BoundToRun(run, fn), *args, **kwargs)
        run.futures.add(future)
        future.add_done_callback(run.futures.discard)
        return future

    threading.Thread.start = start_with_run  # type: ignore[method-assign]
    concurrent.futures.ThreadPoolExecutor.submit = submit_with_run  # type: ignore[method-assign]

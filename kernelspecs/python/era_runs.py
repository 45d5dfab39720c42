"""Which run a piece of code belongs to, also when a thread, a pool or a task carries it on.

Tasks and timers of an event loop copy the context that they were made in. Threads do not, so each
remembers the run that started it; work that is handed to a thread pool carries the run along.
"""

from __future__ import annotations

import codecs
import concurrent.futures
import concurrent.futures.thread
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


class Strand:
    """One of the two output streams of one run: bytes go in, whole characters come out."""

    def __init__(self, name: str, parent: dict[str, Any]) -> None:
        self.name = name
        self.parent = parent  # the header of the request that output is told to belong to
        self.late = False  # the run is over, and all that it wrote until then is out
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode


class Run:
    """One request to run code, from its start until the last thread that it started ends."""

    def __init__(self, parent: dict[str, Any], number: int = 0, nonce: str | None = None) -> None:
        self.parent = parent
        self.number = number
        self.nonce = nonce  # to be sent when all output is out; None: nobody waits for it
        self.client: list[bytes] | None = None  # who answers `input()` on the channel stdin
        self.stdout = Strand("stdout", parent)
        self.stderr = Strand("stderr", parent)
        self.futures: set[concurrent.futures.Future[Any]] = set()


_carried: ContextVar[Run] = ContextVar("era_run")
_threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
_latest = Run({})


def enter(run: Run) -> None:
    """From here on, code of this context belongs to `run`."""
    global _latest
    _latest = run
    _carried.set(run)


def current() -> Run:
    """The run of the calling code; the latest one where nothing tells."""
    run = _carried.get(None)
    if run is None:
        thread = _threads.get(threading.get_ident())
        run = getattr(thread, "_era_run", _latest)
    return run


def threads_of(run: Run) -> list[threading.Thread]:
    """The threads that a plain interpreter would wait for at its end; idle pools are none."""
    pools = concurrent.futures.thread._threads_queues  # type: ignore[attr-defined]
    return [
        thread
        for thread in threading.enumerate()
        if getattr(thread, "_era_run", None) is run
        and not thread.daemon
        and thread not in pools
        and type(thread).__name__ != "_ExecutorManagerThread"
    ]


class _Carried:
    """A function that runs in another thread, for the run that handed it over."""

    __slots__ = ("_function", "_run")

    def __init__(self, run: Run, function: Callable[..., Any]) -> None:
        self._run = run
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = _carried.set(self._run)
        try:
            return self._function(*args, **kwargs)
        finally:
            _carried.reset(token)


def install() -> None:
    """Let threads and thread pools know their runs."""
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
        future = submit(self, _Carried(run, fn), *args, **kwargs)
        run.futures.add(future)
        future.add_done_callback(run.futures.discard)
        return future

    threading.Thread.start = start_with_run  # type: ignore[method-assign]
    concurrent.futures.ThreadPoolExecutor.submit = submit_with_run  # type: ignore[method-assign]

"""Makes asyncio.run and similar calls work in a cell, although the kernel's own loop is running.

A cell is called from within the kernel's loop, so that `asyncio.create_task` works and tasks go on
after it. `asyncio.run`, `Runner.run` and `run_until_complete` refuse to work in a running loop; so
no loop counts as running while a cell calls them. Inside the user's own tasks they refuse, as they
must.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.tasks
import contextlib
import functools
import signal
import threading
from asyncio import AbstractEventLoop, BaseEventLoop
from collections.abc import Callable, Iterator
from typing import Any


class NestedLoops:
    """Patches asyncio; knows the kernel's loop and the task that runs a cell (None: none runs)."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.cell_task: asyncio.Task[Any] | None = None
        self.cell_sigint_handler: Any = None  # the handler of SIGINT while the cell is awaited

    def install(self) -> None:
        """Patches asyncio."""
        run = self._wrap_function(asyncio.run)
        asyncio.run = asyncio.runners.run = run
        asyncio.Runner.run = self._wrap_function(asyncio.Runner.run)  # type: ignore[method-assign]
        for name in ("run_until_complete", "run_forever"):
            setattr(BaseEventLoop, name, self._wrap_loop_method(getattr(BaseEventLoop, name)))

    def is_in_cell(self) -> bool:
        """Returns whether the caller is the code of a cell itself, and not a task of the user's."""
        return (
            self.cell_task is not None
            and threading.current_thread() is threading.main_thread()
            and asyncio._get_running_loop() is self.loop
            and asyncio.current_task(self.loop) in (self.cell_task, None)
        )

    def _wrap_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.is_in_cell():
                return function(*args, **kwargs)
            with self._outside_running_loop():
                return function(*args, **kwargs)

        return call

    def _wrap_loop_method(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(loop: BaseEventLoop, *args: Any) -> Any:
            if not self.is_in_cell():
                return function(loop, *args)
            with self._outside_running_loop():
                if loop is self.loop:
                    return _run_nested(loop, *args)
                return function(loop, *args)

        return call

    @contextlib.contextmanager
    def _outside_running_loop(self) -> Iterator[None]:
        """Unsets the running loop and the current task meanwhile, as in a plain program."""
        task = asyncio.current_task(self.loop)
        handler = signal.getsignal(signal.SIGINT)
        _swap_task(self.loop, task, None)
        asyncio._set_running_loop(None)
        is_our_handler = handler is self.cell_sigint_handler  # which needs the loop to run
        if is_our_handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            if is_our_handler:
                signal.signal(signal.SIGINT, handler)
            asyncio._set_running_loop(self.loop)
            asyncio.set_event_loop(self.loop)  # a Runner sets none at its end
            _swap_task(self.loop, None, task)


def _swap_task(loop: AbstractEventLoop, old: Any, new: Any) -> None:
    """Changes which task is the current one of the running loop."""
    if hasattr(asyncio.tasks, "_swap_current_task"):  # since 3.12
        asyncio.tasks._swap_current_task(loop, new)
        return
    if old is not None:
        asyncio.tasks._leave_task(loop, old)
    if new is not None:
        asyncio.tasks._enter_task(loop, new)


def _run_nested(loop: Any, future: Any = None) -> Any:
    """Runs the kernel's own loop on, until `future` is done; without one, until it is stopped.

    The loop counts beforehand how many callbacks it is going to call in one iteration. Those that
    are called here are replaced by cancelled ones, which it skips.
    """
    asyncio._set_running_loop(loop)
    expected = len(loop._ready)
    if future is not None:
        future = asyncio.ensure_future(future, loop=loop)
    try:
        while not (loop._stopping if future is None else future.done()):
            loop._run_once()
    except BaseException:
        if future is not None:
            future.cancel()  # a plain program would have ended, and the future with it
        raise
    finally:
        loop._stopping = False
        for _ in range(expected):
            handle = asyncio.Handle(_do_nothing, (), loop)
            handle.cancel()
            loop._ready.appendleft(handle)
    return None if future is None else future.result()


def _do_nothing() -> None:
    """Does nothing; it is the callback of the cancelled handles."""

"""What SIGINT does: raise in a program that runs, cancel one that awaits, nothing between runs."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from era_loops import Loops

_HANDLE = asyncio.Handle._run.__code__  # from where the loop calls what is due


class Interrupts:
    """The handler of SIGINT. Children do not inherit one: it is never SIG_IGN."""

    def __init__(self) -> None:
        self.happened = False  # while the program of this run was awaited
        self._handler: Any = signal.default_int_handler  # the program's: it may set its own
        signal.signal(signal.SIGINT, _ignore)

    def reset(self) -> None:
        """A new run: it starts with Python's own handler."""
        self._handler = signal.default_int_handler
        self.happened = False

    def guard(self, function: Callable[[], object]) -> BaseException | None:
        """Call it, interruptible; what it raised, or None."""
        error: BaseException | None = None
        try:
            try:
                signal.signal(signal.SIGINT, self._handler)
                function()
            except BaseException as raised:
                error = raised
            finally:
                self._handler = signal.signal(signal.SIGINT, _ignore) or signal.SIG_DFL
        except BaseException as raised:  # it came between the end of the program and that line
            signal.signal(signal.SIGINT, _ignore)
            error = error or raised
        return error

    @contextmanager
    def cancelling(self, task: asyncio.Task[None], loops: Loops) -> Iterator[None]:
        """While the loop runs: cancel the program's task, raise in what computes."""
        kernel = asyncio.current_task()

        def interrupt(_: int, frame: FrameType | None) -> None:
            self.happened = True
            running = asyncio.current_task(loops.loop) if asyncio._get_running_loop() else None
            computing = running not in (None, kernel) and _is_in_coroutine(frame)
            if not computing or running is not task:
                loops.loop.call_soon_threadsafe(task.cancel)
            if computing:
                raise KeyboardInterrupt

        loops.canceller = interrupt
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, _ignore)
            loops.canceller = None


def _is_in_coroutine(frame: FrameType | None) -> bool:
    """Is a coroutine's own code running, and not the loop's around it?

    A task is the current one also while the loop schedules its next step. An exception there would
    leave a task that is never called again.
    """
    while frame is not None and frame.f_code is not _HANDLE:
        if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return True
        frame = frame.f_back
    return False


def _ignore(*_: object) -> None:
    """Between runs there is nothing to interrupt."""

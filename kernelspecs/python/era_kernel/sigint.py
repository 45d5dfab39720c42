"""Handles SIGINT: raises in a program that runs, cancels one that awaits, else ignores it."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from era_kernel.nested_loops import NestedLoops

_HANDLE_RUN_CODE = asyncio.Handle._run.__code__  # from where the loop calls what is due


class SigintHandler:
    """Sets the handler of SIGINT, which is never SIG_IGN: children would inherit that."""

    def __init__(self) -> None:
        self.has_interrupted = False  # SIGINT came while this run's program was awaited
        self._program_handler: Any = signal.default_int_handler  # the program's: it may set its own
        signal.signal(signal.SIGINT, _ignore)

    def reset(self) -> None:
        """Restores Python's own handler, for a new run."""
        self._program_handler = signal.default_int_handler
        self.has_interrupted = False

    def call_interruptible(self, function: Callable[[], object]) -> BaseException | None:
        """Calls a function so that SIGINT interrupts it; returns what it raised, or None."""
        error: BaseException | None = None
        try:
            try:
                signal.signal(signal.SIGINT, self._program_handler)
                function()
            except BaseException as raised:
                error = raised
            finally:
                self._program_handler = signal.signal(signal.SIGINT, _ignore) or signal.SIG_DFL
        except BaseException as raised:  # SIGINT came when the program had ended
            signal.signal(signal.SIGINT, _ignore)
            error = error or raised
        return error

    @contextmanager
    def cancelling(self, task: asyncio.Task[None], loops: NestedLoops) -> Iterator[None]:
        """Makes SIGINT cancel the task while the loop runs, and raise in code that computes."""
        kernel_task = asyncio.current_task()

        def on_sigint(_: int, frame: FrameType | None) -> None:
            self.has_interrupted = True
            current_task = asyncio.current_task(loops.loop) if asyncio._get_running_loop() else None
            is_computing = current_task not in (None, kernel_task) and _is_in_coroutine(frame)
            if not is_computing or current_task is not task:
                loops.loop.call_soon_threadsafe(task.cancel)
            if is_computing:
                raise KeyboardInterrupt

        loops.cell_sigint_handler = on_sigint
        signal.signal(signal.SIGINT, on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, _ignore)
            loops.cell_sigint_handler = None


def _is_in_coroutine(frame: FrameType | None) -> bool:
    """Returns whether a coroutine's own code is running, and not the loop's around it.

    A task is the current one also while the loop schedules its next step. An exception there would
    leave a task that is never called again.
    """
    while frame is not None and frame.f_code is not _HANDLE_RUN_CODE:
        if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            return True
        frame = frame.f_back
    return False


def _ignore(*_: object) -> None:
    """Ignores SIGINT: between runs there is nothing to interrupt."""

"""Runs long work in short steps, so that other tasks and threads can run in between.

`run_cooperatively` runs the steps on the event loop, `run_in_slices` in a thread, where each step
holds the interpreter's lock all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Stepwise = Generator[None, None, T]

SLICE_SECONDS = 0.0005  # seconds of work before a yield
YIELD_SECONDS = 0.001  # seconds of a yield
LONG_YIELD_SECONDS = 0.004  # seconds of the next yield, if others were busy during the last one
# CPU time used by others during a yield above which they count as busy; the yield itself costs a
# third of it.
BUSY_CPU_SECONDS = 0.00015


class Yielder:
    """Decides when stepwise work on the event loop yields: longer while other tasks are busy.

    A request takes some thirty iterations of the loop, and each may have to wait for such work.
    """

    def __init__(self) -> None:
        self._yield_seconds = YIELD_SECONDS
        self._slice_end = time.perf_counter() + SLICE_SECONDS

    async def checkpoint(self) -> None:
        """Yields to other tasks if the current slice is over; is called after each step."""
        if time.perf_counter() < self._slice_end:
            return
        before = time.thread_time()
        await asyncio.sleep(self._yield_seconds)
        used = time.thread_time() - before
        self._yield_seconds = LONG_YIELD_SECONDS if used > BUSY_CPU_SECONDS else YIELD_SECONDS
        self._slice_end = time.perf_counter() + SLICE_SECONDS


async def run_cooperatively(steps: Stepwise[T]) -> T:
    """Runs the steps on the event loop, a few at a time, and returns their result."""
    yielder = Yielder()
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        await yielder.checkpoint()


def run_in_slices(steps: Stepwise[T]) -> T:
    """Runs the steps in the calling thread, sleeps after each slice, and returns their result."""
    while True:
        end = time.perf_counter() + SLICE_SECONDS
        try:
            while time.perf_counter() < end:
                next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        time.sleep(YIELD_SECONDS)

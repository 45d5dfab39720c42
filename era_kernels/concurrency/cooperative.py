"""Long work in steps: whoever takes them rests in between, so that others have their turn.

`run_cooperatively` takes them on the event loop, `run_in_slices` in a thread, where each of them keeps the
interpreter's lock all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Stepwise = Generator[None, None, T]

SLICE_SECONDS = 0.0005  # seconds of steps before a rest
YIELD_SECONDS = 0.001  # seconds of a rest
LONG_YIELD_SECONDS = 0.004  # of the next one, if others made use of the last
BUSY_CPU_SECONDS = (
    0.00015  # seconds of processor in a rest that mean that; to rest takes a third of them
)


class Yielder:
    """When whoever works in steps on the event loop rests: now and then, and longer beside others.

    A request takes some thirty turns of the loop, and each may have to wait for such a work.
    """

    def __init__(self) -> None:
        self._yield_seconds = YIELD_SECONDS
        self._slice_end = time.perf_counter() + SLICE_SECONDS

    async def checkpoint(self) -> None:
        """A step was taken: rest, if it is time to."""
        if time.perf_counter() < self._slice_end:
            return
        before = time.thread_time()
        await asyncio.sleep(self._yield_seconds)
        used = time.thread_time() - before
        self._yield_seconds = LONG_YIELD_SECONDS if used > BUSY_CPU_SECONDS else YIELD_SECONDS
        self._slice_end = time.perf_counter() + SLICE_SECONDS


async def run_cooperatively(steps: Stepwise[T]) -> T:
    """Take the steps on the event loop, a few at a time; what they come to."""
    yielder = Yielder()
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        await yielder.checkpoint()


def run_in_slices(steps: Stepwise[T]) -> T:
    """The same in a thread."""
    while True:
        end = time.perf_counter() + SLICE_SECONDS
        try:
            while time.perf_counter() < end:
                next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        time.sleep(YIELD_SECONDS)

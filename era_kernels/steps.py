"""Long work in steps: whoever takes them rests in between, so that others have their turn.

`leisurely` takes them on the event loop, `in_thread` in a thread, where each of them keeps the
interpreter's lock all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

WORK = 0.0005  # seconds of steps before a rest
REST = 0.001  # seconds of a rest
LONG_REST = 0.004  # of the next one, if others made use of the last
USE = 0.00015  # seconds of processor in a rest that mean that; to rest takes a third of them


class Pace:
    """When whoever works in steps on the event loop rests: now and then, and longer beside others.

    A request takes some thirty turns of the loop, and each may have to wait for such a work.
    """

    def __init__(self) -> None:
        self._rest = REST
        self._end = time.perf_counter() + WORK

    async def step(self) -> None:
        """A step was taken: rest, if it is time to."""
        if time.perf_counter() < self._end:
            return
        before = time.thread_time()
        await asyncio.sleep(self._rest)
        used = time.thread_time() - before
        self._rest = LONG_REST if used > USE else REST
        self._end = time.perf_counter() + WORK


async def leisurely(steps: Steps[T]) -> T:
    """Take the steps on the event loop, a few at a time; what they come to."""
    pace = Pace()
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        await pace.step()


def in_thread(steps: Steps[T]) -> T:
    """The same in a thread."""
    while True:
        end = time.perf_counter() + WORK
        try:
            while time.perf_counter() < end:
                next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        time.sleep(REST)

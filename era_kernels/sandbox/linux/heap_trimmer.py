"""Gives memory that was freed back to Linux, after floods of large messages and bodies.

The C library keeps what lies between pieces that are still in use: a gigabyte, after a few displays
of a hundred megabytes.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import mmap
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_INTERVAL = 5.0  # seconds between two looks at this process's memory
GROWTH_BYTES = 24 * 1024 * 1024  # bytes more than after the last time that make it worth while
CALM_BYTES = 8 * 1024 * 1024  # bytes more than at the last look: a flood is under way
# Bytes: more than an answer of 10 MB takes in one piece. Each page of a block that was returned
# costs some microseconds when the next is made.
LARGE_BLOCK = 16 * 1024 * 1024
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
MAX_HEAPS = 2  # that threads take memory from; each keeps its own free pieces
MAX_PUT_OFF = 6  # looks for which a flood puts it off
REST_LOOKS = 4  # looks after which it is done once more: some things are let go of late
# Circles are collected after so many collections of the middle generation, and before memory is
# given back. A collection visits all values, so it waits for large bodies and messages to go.
MIDDLE_COLLECTIONS = 200
COLLECTED_BYTES = 256 * 1024  # of all together


def resident_bytes() -> int:
    """Returns how much memory this process uses; proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * mmap.PAGESIZE


def keep_little() -> None:
    """Has each block of LARGE_BLOCK or more returned to Linux when it is freed; mallopt(3).

    Else the C library raises that bound by itself, up to 32 MiB, and keeps what is freed below it,
    in up to eight heaps for each processor.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(_M_ARENA_MAX, MAX_HEAPS)


def find_trim() -> Callable[[], object] | None:
    """Returns malloc_trim(3), which releases the interpreter's lock; None where there is none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)


class HeapTrimmer:
    """Looks at this process's memory at a calm rhythm, and gives back what was freed."""

    def __init__(
        self,
        trim: Callable[[], object] | None = None,
        resident: Callable[[], int] = resident_bytes,
        interval: float = LOOK_INTERVAL,
        in_work: Callable[[], int] = lambda: 0,
    ) -> None:
        """`trim` gives memory back, by default `malloc_trim`; it is called in a thread.

        `in_work` tells how many bytes of bodies and messages are in memory.
        """
        self._trim = trim or find_trim()
        self._resident = resident
        self._interval = interval
        self._least = self._last = resident()
        self._put_off = 0
        self._rest_looks = 0  # until it is done once more
        self._in_work = in_work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, where the C library has the means."""
        keep_little()
        if self._trim is not None:
            self._task = asyncio.create_task(self._run(self._trim))

    async def aclose(self) -> None:
        """Stops to look; a second call is fine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, trim: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(self._interval)
            is_due = self._is_due(self._resident())
            may_hold_circles = is_due or gc.get_count()[2] >= MIDDLE_COLLECTIONS
            if may_hold_circles and self._in_work() <= COLLECTED_BYTES:
                gc.collect()
            if is_due:
                await asyncio.to_thread(trim)
                self._least = self._last = self._resident()

    def _is_due(self, size: int) -> bool:
        grew, self._last = size - self._last, size
        self._least = min(self._least, size)
        if self._rest_looks and grew <= CALM_BYTES:
            self._rest_looks -= 1
            if not self._rest_looks:
                return True
        if size - self._least < GROWTH_BYTES:
            return False
        self._put_off = self._put_off + 1 if grew > CALM_BYTES else MAX_PUT_OFF
        if self._put_off < MAX_PUT_OFF:
            return False
        self._put_off = 0
        self._rest_looks = REST_LOOKS
        return True

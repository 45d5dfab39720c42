"""Tells the loop that the kernel killed a process of a sandbox for want of memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from era_kernels.sandbox.quarters import Quarters

LOOKS = 20  # at the kernel's own count, which follows its alarm
PAUSE = 0.005  # seconds between them


class Alarm:
    """Calls `told` with the cause, within some milliseconds, until it is closed."""

    def __init__(self, quarters: Quarters, told: Callable[[str], None]) -> None:
        self._quarters = quarters
        self._told = told
        self._descriptor = quarters.alarm
        self._loop = asyncio.get_running_loop()
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._ring, self._descriptor)

    def close(self) -> None:
        """Before the group is removed; a second call is fine."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            self._descriptor = None

    def _ring(self, descriptor: int) -> None:
        """The kernel is about to kill something, in this group or in one above it."""
        os.eventfd_read(descriptor)
        self._look(LOOKS)

    def _look(self, more: int) -> None:
        if self._descriptor is None:
            return
        why = self._quarters.overdrawn
        if why is not None:
            self._told(why)
        elif more:
            self._loop.call_later(PAUSE, self._look, more - 1)

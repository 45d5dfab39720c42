"""Calls back when nothing has happened for a given time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls `on_idle` after `timeout` seconds without `touch`.

    Time does not count while `is_paused()`.
    """

    def __init__(
        self,
        timeout: float,
        on_idle: Callable[[], None],
        is_paused: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts the time at once."""
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._on_idle = on_idle
        self._is_paused = is_paused
        self._last_touch = self._loop.time()
        self._timer = self._loop.call_later(timeout, self._on_timer)

    def touch(self) -> None:
        """Starts the time anew, because something happened."""
        self._last_touch = self._loop.time()

    def cancel(self) -> None:
        """Stops the timer: `on_idle` is not called any more."""
        self._timer.cancel()

    def _on_timer(self) -> None:
        if self._is_paused():
            self.touch()
        remaining = self._last_touch + self._timeout - self._loop.time()
        if remaining > 0:
            self._timer = self._loop.call_later(remaining, self._on_timer)
        else:
            self._on_idle()

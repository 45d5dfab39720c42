"""Asks the peer of a control channel for signs of life, and knows when one is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LATE_AFTER = 2.0  # seconds without the sign of life that was asked for


class Pulse:
    """Calls `ping`, which waits for the peer's answer, again and again."""

    def __init__(self, ping: Callable[[], Awaitable[None]], interval: float) -> None:
        """Begins; `interval` is the seconds between an answer and the next ping."""
        self._ping = ping
        self._interval = interval
        self._asked_at: float | None = None  # monotonic seconds, while an answer is awaited
        self._task = asyncio.create_task(self._run())

    @property
    def is_late(self) -> bool:
        """True while the answer is late."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > LATE_AFTER

    def stop(self) -> None:
        """Ends the asking; a second call is fine."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._asked_at = time.monotonic()
            await self._ping()
            self._asked_at = None

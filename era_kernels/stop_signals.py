"""Waits for the signals that end the server: in order at first, at once when one comes again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from types import FrameType

REPEAT_SECONDS = 0.1  # within which it is the same wish: timeout(1) sends its signal twice
END_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Tells when the server shall end. `install` is called once, in the main thread's loop.

    SIGHUP, which a terminal sends when it goes away, counts unless it is ignored, as nohup(1) has
    it. It never ends the server at once: service managers send it beside SIGTERM.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._asked_at = 0.0

    def install(self) -> None:
        """Handles the signals from now on."""
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self._on_end_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._asked.set)

    async def wait(self) -> None:
        """Returns when a signal has come."""
        await self._asked.wait()

    def _on_end_signal(self) -> None:
        self._asked.set()
        self._asked_at = time.monotonic()
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            # Handled by Python itself: the next one counts also while the loop is held up.
            loop.remove_signal_handler(number)
            signal.signal(number, self._end_at_once)

    def _end_at_once(self, number: int, frame: FrameType | None) -> None:
        """Ends the process with the exit code of a shell; Linux and the inits end the sessions."""
        if time.monotonic() - self._asked_at > REPEAT_SECONDS:
            os._exit(128 + number)

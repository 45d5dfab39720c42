"""How fast output of runs that are over may come: who prints more waits, as on a slow terminal.

Nobody waits for such output. If it came as fast as it can, a thread that prints for ever would hold
up the output of the run that is under way, and fill the memory with what has not been sent.
"""

from __future__ import annotations

import time

RATE = 1 << 20  # bytes in a second
BURST = 4 << 20  # bytes that may come at once
WRITE = 50  # what one write costs beside its bytes
CHANGE = 2000  # the same where it goes to another stream than the last: that is another message


class Pace:
    """A bucket that fills at RATE. Threads may miss each other's writes, which does no harm."""

    def __init__(self) -> None:
        self._room = float(BURST)
        self._at = time.monotonic()
        self._last: object = None

    def take(self, size: int, stream: object) -> None:
        """So much is written to that stream."""
        self._fill()
        self._room -= size + (WRITE if stream is self._last else CHANGE)
        self._last = stream

    def wait(self) -> float:
        """Seconds until more may be written."""
        self._fill()
        return max(0.0, -self._room / RATE)

    def _fill(self) -> None:
        now = time.monotonic()
        self._room = min(BURST, self._room + (now - self._at) * RATE)
        self._at = now

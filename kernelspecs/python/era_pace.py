"""How long a program waits for its own output."""

from __future__ import annotations

import time

RATE = 1 << 20  # bytes in a second
BURST = 4 << 20  # bytes that may come at once
WRITE = 50  # what one write costs beside its bytes
CHANGE = 2000  # the same where it goes to another stream than the last: that is another message

SHARE = 0.1  # of a program's time that goes into flushes; past that it waits for none
AT_ONCE = 0.1  # seconds of it that may come one after the other


class Pace:
    """How fast output of runs that are over may come: who prints more waits, as on a slow terminal.

    Nobody waits for such output. If it came as fast as it can, a thread that prints for ever would
    hold up the output of the run that is under way, and fill the memory with what has not been
    sent. A bucket that fills at RATE; threads may miss each other's writes, which does no harm.
    """

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


class Allowance:
    """How much time may go into waiting for flushes: a bucket that fills at SHARE.

    Threads that wait together count once, or a little more. A wait that is long because a flood
    goes first must not keep the program from being seen for minutes: it never takes more than the
    bucket holds.
    """

    def __init__(self) -> None:
        self._room = AT_ONCE
        self._began = self._ended = time.monotonic()

    def left(self) -> bool:
        """Whether there is time to wait now."""
        return self._room + (time.monotonic() - self._ended) * SHARE > 0

    def __enter__(self) -> None:
        """Somebody waits, until it is left."""
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        began, now = max(self._began, self._ended), time.monotonic()
        filled = min(AT_ONCE, self._room + (began - self._ended) * SHARE)
        self._ended = now
        self._room = max(filled - (now - began), -AT_ONCE)

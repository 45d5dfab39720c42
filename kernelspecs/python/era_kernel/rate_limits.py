"""Limits how fast a program's late output comes, and how long the program waits for flushes."""

from __future__ import annotations

from time import monotonic

BYTES_PER_SECOND = 1 << 20  # bytes in a second
BURST_BYTES = 4 << 20  # bytes that may come at once
WRITE_COST = 50  # bytes that one write costs beside its own
CHANGE_COST = 2000  # the same for another stream than the last one: that is another message

FLUSH_SHARE = 0.1  # of a program's time that goes into flushes; past that it waits for none
FLUSH_BURST_SECONDS = 0.1  # seconds of it that may come one after the other


class TokenBucket:
    """Limits the output of runs that are over: code that prints more waits, as on a slow terminal.

    Nobody waits for such output. If it came as fast as it can, a thread that prints for ever would
    hold up the output of the run that is under way, and fill the memory with what has not been
    sent. The bucket fills at BYTES_PER_SECOND; threads may miss each other's writes, which does no
    harm.
    """

    def __init__(self) -> None:
        self._tokens = float(BURST_BYTES)
        self._filled_at = monotonic()
        self._last_stream: object = None

    def consume(self, size: int, stream: object) -> None:
        """Takes the cost of writing `size` bytes to a stream from the bucket."""
        self._refill()
        self._tokens -= size + (WRITE_COST if stream is self._last_stream else CHANGE_COST)
        self._last_stream = stream

    def seconds_until_ready(self) -> float:
        """Returns the seconds until more may be written."""
        self._refill()
        return max(0.0, -self._tokens / BYTES_PER_SECOND)

    def _refill(self) -> None:
        now = monotonic()
        self._tokens = min(BURST_BYTES, self._tokens + (now - self._filled_at) * BYTES_PER_SECOND)
        self._filled_at = now


class FlushBudget:
    """Limits the time that goes into waiting for flushes: a bucket that fills at FLUSH_SHARE.

    Threads that wait together count once, or a little more. A wait that is long because much other
    output goes first must not keep later flushes from waiting for minutes: it never takes more than
    the bucket holds.
    """

    def __init__(self) -> None:
        self._seconds_left = FLUSH_BURST_SECONDS
        self._wait_began_at = self._wait_ended_at = monotonic()

    def has_time(self) -> bool:
        """Returns whether there is time to wait now."""
        return self._seconds_left + (monotonic() - self._wait_ended_at) * FLUSH_SHARE > 0

    def __enter__(self) -> None:
        """Begins a wait, which ends at the exit."""
        self._wait_began_at = monotonic()

    def __exit__(self, *_: object) -> None:
        began, now = max(self._wait_began_at, self._wait_ended_at), monotonic()
        filled = min(
            FLUSH_BURST_SECONDS, self._seconds_left + (began - self._wait_ended_at) * FLUSH_SHARE
        )
        self._wait_ended_at = now
        self._seconds_left = max(filled - (now - began), -FLUSH_BURST_SECONDS)

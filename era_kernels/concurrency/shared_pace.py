"""Spreads pieces of work over time, so that many workers together leave others as much as one."""

from __future__ import annotations

import time


class SharedPace:
    """Gives each worker the time of its next piece of work, at some distance from all others'.

    Pieces that become due together would run in one round of the event loop, and whatever else
    wants the loop would wait for all of them, in each of its own rounds.
    """

    def __init__(self) -> None:
        self._next_start = 0.0  # of time.perf_counter

    def delay(self, rest: float, distance: float) -> float:
        """Returns in how many seconds the caller may go on: `rest`, or more beside others.

        `distance` is the seconds from the start of this piece of work to that of the next one of
        anybody.
        """
        now = time.perf_counter()
        start = max(now + rest, self._next_start)
        self._next_start = start + distance
        return start - now

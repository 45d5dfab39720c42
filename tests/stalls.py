"""Runs a test marked `timed` again when it failed while the machine stalled (a plugin of pytest).

Such a test shows that something happens after one time and not after another, a fraction of a
second apart. On a machine that let this process wait for longer than that, its failure says
nothing. A failure counts when the machine kept time, and after ATTEMPTS in any case.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

import pytest
from _pytest.runner import runtestprotocol

TIMED = "timed"
ATTEMPTS = 3
LOOK_INTERVAL = 0.02  # seconds between two looks at the clock
STALL = 0.15  # seconds between two looks, from which on the machine has stalled


class Stopwatch:
    """Looks at the clock all the time, in a thread of its own, while it is entered."""

    def __init__(self) -> None:
        self.longest = 0.0  # seconds between two looks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Stopwatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def has_stalled(self) -> bool:
        """True when this process had to wait for the machine."""
        return self.longest > STALL

    def _look(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(LOOK_INTERVAL):
            now = time.monotonic()
            self.longest, before = max(self.longest, now - before), now


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker(TIMED) is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(1, ATTEMPTS + 1):
        with Stopwatch() as stopwatch:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        has_failed = any(report.failed for report in reports)
        if not (has_failed and stopwatch.has_stalled and attempt < ATTEMPTS):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True

"""Runs a test again that failed while the machine stalled (a plugin of pytest).

A test waits for what other processes do, with bounds that an idle machine keeps easily. When the
machine let the test's own process wait for half a second, a failure says little, so the test is
tried once more. A test marked `timed` tells times apart that are a fraction of a second apart:
shorter stalls count, and it is tried more often. A failure counts when the machine kept time, and
after the last attempt in any case. The summary names all that were tried again.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

import pytest
from _pytest.runner import runtestprotocol

TIMED = "timed"
LOOK_INTERVAL = 0.02  # seconds between two looks at the clock
# Seconds between two looks, from which on the machine has stalled, and how often a test is tried.
STALL, ATTEMPTS = 0.5, 2
TIMED_STALL, TIMED_ATTEMPTS = 0.15, 3
AGAIN = "run again"  # the property of a report: how often


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

    def _look(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(LOOK_INTERVAL):
            now = time.monotonic()
            self.longest, before = max(self.longest, now - before), now


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(StallSummary())


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    is_timed = item.get_closest_marker(TIMED) is not None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    tries_left, tried_again = TIMED_ATTEMPTS if is_timed else ATTEMPTS, 0
    while True:
        with Stopwatch() as stopwatch:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        tries_left -= 1
        has_failed = any(report.failed for report in reports)
        has_stalled = stopwatch.longest > (TIMED_STALL if is_timed else STALL)
        if not (has_failed and has_stalled and tries_left):
            break
        tried_again += 1
    for report in reports:
        if tried_again and report.when == "call":
            report.user_properties.append((AGAIN, tried_again))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


class StallSummary:
    """Collects the tests that were tried again, of all workers, for the summary."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, attempts in report.user_properties:
            if name == AGAIN:
                self._lines.append(f"{report.nodeid}: {attempts} x, then {report.outcome}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._lines:
            terminalreporter.section("run again, for the machine stalled")
            for line in self._lines:
                terminalreporter.line(line)

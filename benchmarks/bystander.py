"""Measures what a session notices of another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import quantiles

from benchmarks.table import ms
from tests.client import Client

RUNS = 200


class Bystander:
    """A session that does nothing wrong, and how soon it is answered while nobody else does."""

    def __init__(self, client: Client, runs: int = RUNS) -> None:
        self._session = client.session("python")
        self._session.run("1")
        self._runs = runs
        self._idle = self._p95_of_runs()

    def beside(self, what: str) -> str:
        """Measures while others do `what`; returns how that compares, as a phrase."""
        seconds = self._p95_of_runs()
        return (
            f"/run of a bystander, p95: idle {ms(self._idle)}, beside {what} {ms(seconds)} "
            f"({seconds / self._idle:.1f} times)"
        )

    def _p95_of_runs(self) -> float:
        """Returns the seconds within which 95 of 100 runs are answered."""
        times = [seconds_of(lambda: self._session.run("1")) for _ in range(self._runs)]
        return quantiles(times, n=20)[-1]


def seconds_of(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began

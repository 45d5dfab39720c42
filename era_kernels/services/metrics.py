"""Counts what operators measure; the only module that knows Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from signal import Signals

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from era_kernels.models import EndReason, ExitInfo
from era_kernels.services.executions.last_events import Timing

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# Upper bounds in seconds: a run or a response takes milliseconds to hours, a start or commit less.
LONG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
SHORT_BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
)

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_LABEL = "other"  # for values that callers can make up: the values of a label must be bounded


class ScrapedGauge(StrEnum):
    """The gauges whose values are read at the moment of a scrape."""

    SESSIONS = "Sessions that are stored."
    RUNS_WAITING = "Runs that wait behind another one of their session."
    RUNS_RUNNING = "Runs that are at the head of their session's queue."
    CONNECTIONS = "Open connections of clients."


class Metrics:
    """Counts and times the work of one server, in a registry of its own.

    Every method but `render` takes microseconds and may be called from any thread.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauge_sources: dict[ScrapedGauge, Callable[[], int]] = {}
        self._runs = RunMetrics(self._registry)
        self._kernels = KernelMetrics(self._registry)
        self._http = HttpMetrics(self._registry)
        self._store = DatabaseMetrics(self._registry)
        self._gauges = {
            one: Gauge(f"era_{one.name.lower()}", one.value, registry=self._registry)
            for one in ScrapedGauge
        }
        ProcessCollector(registry=self._registry)

    def run_ended(
        self, language: str, outcome: str, timing: Timing, output_bytes: Mapping[str, int]
    ) -> None:
        """Counts a run that ended; `output_bytes` are its printed bytes by stream."""
        self._runs.total.labels(language, outcome).inc()
        self._runs.queued.observe(timing.queued)
        self._runs.seconds.labels(language).observe(timing.execution)
        for stream, count in output_bytes.items():
            self._runs.output.labels(stream).inc(count)

    @contextmanager
    def kernel_starting(self, language: str) -> Iterator[None]:
        """Times the start of a kernel in its block, which succeeds or raises."""
        began_at = time.monotonic()
        try:
            yield
        except Exception:
            self._kernels.failures.labels(language).inc()
            raise
        self._kernels.starts.labels(language).observe(time.monotonic() - began_at)
        self._kernels.alive.labels(language).inc()

    def kernel_ended(self, language: str, exit_info: ExitInfo) -> None:
        """Counts the end of a kernel that had started."""
        self._kernels.alive.labels(language).dec()
        self._kernels.deaths.labels(language, cause_label(exit_info)).inc()

    def transaction_ended(self, seconds: float, writes: int, failures: int) -> None:
        """Counts a transaction: its seconds, its writes, and how many of them failed."""
        self._store.seconds.observe(seconds)
        self._store.writes.inc(writes)
        self._store.failures.inc(failures)

    def request_answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request whose response is complete; `route` is a pattern, never a path."""
        known = method if method in KNOWN_METHODS else OTHER_LABEL
        self._http.requests.labels(route or OTHER_LABEL, known, str(status)).inc()
        self._http.seconds.labels(route or OTHER_LABEL, known).observe(seconds)

    def connection_rejected(self, reason: str) -> None:
        """Counts a connection closed before any request: `malformed`, `connections`, `foreign`."""
        self._http.rejected.labels(reason).inc()

    def internet_requested(self, outcome: str) -> None:
        """Counts a request of a session to the internet: `connected`, or why it was refused."""
        self._http.internet.labels(outcome).inc()

    def register(self, gauge: ScrapedGauge, count: Callable[[], int]) -> None:
        """Sets the function that returns a gauge; it is called on the event loop per scrape."""
        self._gauge_sources[gauge] = count

    async def render(self) -> bytes:
        """Returns all metrics in Prometheus' text format; to be called on the event loop only."""
        for gauge, count in self._gauge_sources.items():
            self._gauges[gauge].set(count())
        return await asyncio.to_thread(generate_latest, _WithoutCreated(self._registry))


def cause_label(exit_info: ExitInfo) -> str:
    """Returns how a kernel ended, as one of a bounded number of labels.

    >>> cause_label(ExitInfo(code=7)), cause_label(ExitInfo(signal=11))
    ('exit', 'SIGSEGV')
    >>> cause_label(ExitInfo(reason="restarted"))
    'restarted'
    """
    if exit_info.reason is not None:
        return next(
            (one.value for one in EndReason if exit_info.reason.startswith(one)), OTHER_LABEL
        )
    if exit_info.signal is None:
        return "exit"
    try:
        return Signals(exit_info.signal).name
    except ValueError:  # a real-time signal between the first and the last one
        return OTHER_LABEL


# ---------------------------------------------------------------- the metrics


class RunMetrics:
    """The metrics of runs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.total = Counter(
            "era_runs", "Runs that ended.", ["language", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "era_run_seconds",
            "How long kernels worked on runs.",
            ["language"],
            buckets=LONG_BUCKETS,
            registry=registry,
        )
        self.queued = Histogram(
            "era_run_queued_seconds",
            "How long runs waited for their turn.",
            buckets=LONG_BUCKETS,
            registry=registry,
        )
        self.output = Counter(
            "era_run_output_bytes",
            "What runs printed, counted when they end.",
            ["stream"],
            registry=registry,
        )


class KernelMetrics:
    """The metrics of kernels that start, live and end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.alive = Gauge(
            "era_kernels_alive", "Kernels that live.", ["language"], registry=registry
        )
        self.starts = Histogram(
            "era_kernel_start_seconds",
            "How long kernels took until they were ready.",
            ["language"],
            buckets=SHORT_BUCKETS,
            registry=registry,
        )
        self.failures = Counter(
            "era_kernel_start_failures",
            "Kernels that did not start.",
            ["language"],
            registry=registry,
        )
        self.deaths = Counter(
            "era_kernel_deaths", "Kernels that ended.", ["language", "cause"], registry=registry
        )


class HttpMetrics:
    """The metrics of HTTP requests and connections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "era_http_requests",
            "Requests that were answered.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "era_http_request_seconds",
            "How long requests took from their headers to the end of the answer.",
            ["route", "method"],
            buckets=LONG_BUCKETS,
            registry=registry,
        )
        self.rejected = Counter(
            "era_http_turned_away",
            "Connections that were closed without a request.",
            ["why"],
            registry=registry,
        )
        self.internet = Counter(
            "era_internet_requests",
            "Requests of sessions to hosts of the internet, by how they went.",
            ["outcome"],
            registry=registry,
        )


class DatabaseMetrics:
    """The metrics of the database."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "era_store_commit_seconds",
            "How long transactions took until they were on disk.",
            buckets=SHORT_BUCKETS,
            registry=registry,
        )
        self.writes = Counter("era_store_writes", "Writes in transactions.", registry=registry)
        self.failures = Counter(
            "era_store_write_failures", "Writes that failed.", registry=registry
        )


class _WithoutCreated(Collector):
    """Hides the creation times of a registry's series, which would double their number."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric

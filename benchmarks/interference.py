"""Measures what other callers notice while the server is busy, from a separate process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from statistics import median, quantiles

from benchmarks.api_caller import Caller

REQUEST_INTERVAL = 0.01  # seconds between requests
ALONE_SECONDS = 3.0  # seconds for which a neighbour is watched before the work begins

# A thread would wait for this process, which parses and sends, and not only for the server.
_processes = multiprocessing.get_context("spawn")


@dataclass
class Latencies:
    """The seconds that each request took, known when the time is over."""

    seconds: list[float] = field(default_factory=list)

    @property
    def p95(self) -> float:
        return quantiles(self.seconds, n=20)[-1]

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class Interference:
    """The latencies of `pass` in an idle session: before the work, and during it."""

    alone: Latencies
    beside: Latencies

    @property
    def p95_increase(self) -> float:
        """The seconds by which the p95 rose."""
        return self.beside.p95 - self.alone.p95

    def __str__(self) -> str:
        alone, beside = self.alone.p95 * 1000, self.beside.p95 * 1000
        return f"{beside:.1f} ms (alone {alone:.1f})"


def measure_interference(
    base_url: str, work: Callable[[], object], alone: float = ALONE_SECONDS
) -> Interference:
    """Measures what a session that only runs `pass` notices of the work, on one server.

    `work` is called here and returns when it is over: let it take a second or more.
    """
    with running_neighbour(base_url) as before:
        time.sleep(alone)
    with running_neighbour(base_url) as meanwhile:
        work()
    return Interference(before, meanwhile)


@contextmanager
def running_neighbour(base_url: str) -> Iterator[Latencies]:
    """Runs `pass` in a session of its own, whose kernel is warm, until the block ends."""
    with _neighbour_process(_run_pass, base_url) as latencies:
        yield latencies


@contextmanager
def polling_neighbour(base_url: str, *, create: bool = False) -> Iterator[Latencies]:
    """Asks for the health until the block ends, and creates sessions with `create=True`."""
    with _neighbour_process(_poll_health, base_url, create) as latencies:
        yield latencies


@contextmanager
def _neighbour_process(target: Callable[..., None], *args: object) -> Iterator[Latencies]:
    ready, stop = _processes.Event(), _processes.Event()
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=target, args=(*args, ready, stop, sender))
    process.start()
    sender.close()
    latencies = Latencies()
    try:
        ready.wait(60)
        yield latencies
    finally:
        stop.set()
        latencies.seconds = receiver.recv()
        process.join()


def _poll_health(base_url: str, create: bool, ready: Event, stop: Event, sender: object) -> None:
    taken: list[float] = []
    with closing(Caller(base_url)) as caller:
        caller.call("GET", "/health")
        ready.set()
        while not stop.is_set():
            taken.append(_timed(caller, "GET", "/health"))
            if create:
                taken.append(_timed(caller, "POST", "/api/sessions", {"language": "python"}))
            time.sleep(REQUEST_INTERVAL)
    sender.send(taken)  # type: ignore[attr-defined]


def _run_pass(base_url: str, ready: Event, stop: Event, sender: object) -> None:
    taken: list[float] = []
    with closing(Caller(base_url)) as caller:
        session = caller.call("POST", "/api/sessions", {"language": "python"})["id"]
        path, body = f"/api/sessions/{session}/run", {"code": "pass"}
        for _ in range(20):
            caller.call("POST", path, body)
        ready.set()
        while not stop.is_set() or len(taken) < 2:
            taken.append(_timed(caller, "POST", path, body))
            time.sleep(REQUEST_INTERVAL)
        caller.call("DELETE", f"/api/sessions/{session}")
    sender.send(taken)  # type: ignore[attr-defined]


def _timed(caller: Caller, method: str, path: str, body: dict[str, object] | None = None) -> float:
    began = time.perf_counter()
    caller.bytes(method, path, body)
    return time.perf_counter() - began

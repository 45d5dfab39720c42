"""What other callers notice: requests from a process of its own while the server is busy."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from statistics import quantiles

from benchmarks.served import Caller

PAUSE = 0.01  # seconds between requests

# A thread would wait for this process, which parses and sends, and not only for the server.
_processes = multiprocessing.get_context("spawn")


@dataclass
class Noticed:
    """Seconds that each request took, known when the time is over."""

    taken: list[float] = field(default_factory=list)

    @property
    def p95(self) -> float:
        return quantiles(self.taken, n=20)[-1]


@contextmanager
def others(base_url: str, *, create: bool = False) -> Iterator[Noticed]:
    """Ask for the health, and create sessions where told, all the time until the block ends."""
    ready, stop = _processes.Event(), _processes.Event()
    here, there = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_ask, args=(base_url, create, ready, stop, there))
    process.start()
    there.close()
    noticed = Noticed()
    try:
        ready.wait(60)
        yield noticed
    finally:
        stop.set()
        noticed.taken = here.recv()
        process.join()


def _ask(base_url: str, create: bool, ready: Event, stop: Event, there: object) -> None:
    taken: list[float] = []
    with closing(Caller(base_url)) as caller:
        caller.call("GET", "/health")
        ready.set()
        while not stop.is_set():
            taken.append(_timed(caller, "GET", "/health"))
            if create:
                taken.append(_timed(caller, "POST", "/api/sessions", {"language": "python"}))
            time.sleep(PAUSE)
    there.send(taken)  # type: ignore[attr-defined]


def _timed(caller: Caller, method: str, path: str, body: dict[str, object] | None = None) -> float:
    began = time.perf_counter()
    caller.bytes(method, path, body)
    return time.perf_counter() - began

"""Sends the measured requests, over one connection that stays open."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import psutil

from tests.client import SseEvent, parse_sse

PATH = "/api/sessions/bench"


class Caller:
    """One connection to the server."""

    def __init__(self, base_url: str) -> None:
        self.host = base_url.removeprefix("http://")
        self._connection = http.client.HTTPConnection(self.host, timeout=120)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Returns the parsed response; anything but success is an error."""
        data = self.bytes(method, path, body)
        return json.loads(data)

    def bytes(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        self._connection.request(method, path, None if body is None else json.dumps(body))
        response = self._connection.getresponse()
        data = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {data[:300]!r}")
        return data

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[SseEvent]:
        """Yields the frames of a run as they come."""
        self._connection.request("POST", path, json.dumps(body))
        response = self._connection.getresponse()
        yield from parse_sse(line.decode().rstrip("\n") for line in response)

    def close(self) -> None:
        self._connection.close()


def run_median(caller: Caller, count: int) -> float:
    """Returns the median seconds of `POST …/run` of `pass`."""
    for _ in range(20):
        caller.call("POST", f"{PATH}/run", {"code": "pass"})
    return median([_timed(caller, f"{PATH}/run", {"code": "pass"}) for _ in range(count)])


def first_event_median(caller: Caller, count: int) -> float:
    """Returns the median seconds from a `print` in the kernel until its event arrives."""
    code = "import time; time.sleep(0.1); print(repr(time.time())); time.sleep(0.1)"
    return median([_first_event(caller, code) for _ in range(count)])


def _first_event(caller: Caller, code: str) -> float:
    seconds = 0.0
    for frame in caller.stream(f"{PATH}/stream", {"code": code}):
        if frame.event == "stdout" and not seconds:
            seconds = time.time() - float(frame.data["content"])
    return seconds


def fresh_median(caller: Caller, count: int) -> float:
    """Returns the median seconds to create a session and have its first run answered."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        created = {"language": "python", "session_id": f"fresh-{number}"}
        caller.call("POST", "/api/sessions", created)
        caller.call("POST", f"/api/sessions/fresh-{number}/run", {"code": "pass"})
        taken.append(time.perf_counter() - began)
        caller.call("DELETE", f"/api/sessions/fresh-{number}")
    return median(taken)


def execute_median(caller: Caller, code: str, count: int) -> float:
    """Returns the median seconds of `POST /api/execute`."""
    body = {"language": "python", "code": code}
    return median([_timed(caller, "/api/execute", body) for _ in range(count)])


def _timed(caller: Caller, path: str, body: dict[str, Any]) -> float:
    began = time.perf_counter()
    caller.call("POST", path, body)
    return time.perf_counter() - began


@contextmanager
def peak_growth(pid: int) -> Iterator[list[int]]:
    """Measures by how many bytes a process grew at most; the list gets the figure at the end."""
    process = psutil.Process(pid)
    before = peak = process.memory_info().rss
    stop = threading.Event()
    growths: list[int] = []

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growths
    finally:
        stop.set()
        watcher.join()
        growths.append(peak - before)

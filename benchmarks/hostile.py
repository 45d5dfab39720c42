"""Measures what others notice, and the server's growth, while a session floods it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks import api_caller, interference
from benchmarks.api_caller import Caller
from benchmarks.table import MEGABYTE, Row
from tests.output_bombs import PROGRAMS
from tests.server_process import Server

WATCH_SECONDS = 4.0  # seconds for which others are watched
MAX_GROWTH = 400 * MEGABYTE
MAX_SLOWDOWN = 3  # by which the p95 of others may rise


def rows(server: Server) -> Iterator[Row]:
    """Runs each program by `/stream`; the p95 is that of `/run` of `pass` meanwhile."""
    with closing(Caller(server.base_url)) as caller:
        for name, code in PROGRAMS.items():
            caller.call("POST", "/api/sessions", {"language": "python", "session_id": "hostile"})
            body = {"code": code, "timeout": 60}

            def work(body: dict[str, object] = body) -> None:
                end = time.monotonic() + WATCH_SECONDS
                while time.monotonic() < end:
                    for _ in caller.stream("/api/sessions/hostile/stream", body):
                        pass

            with api_caller.peak_growth(server.process.pid) as growths:
                measured = interference.measure_interference(server.base_url, work)
            caller.call("DELETE", "/api/sessions/hostile")
            ratio = measured.beside.p95 / measured.alone.p95
            yield Row(f"others' p95 beside {name}", f"{measured} = {ratio:.1f} x", "< 3 x alone",
                      ratio < MAX_SLOWDOWN)  # fmt: skip
            size = growths[0] / MEGABYTE
            yield Row("   server's memory grew by at most", f"{size:.0f} MB", "< 400 MB",
                      growths[0] < MAX_GROWTH)  # fmt: skip

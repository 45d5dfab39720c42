"""What others notice, and what the server grows by, while a session says too much."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks import meanwhile, served
from benchmarks.served import Caller
from benchmarks.table import MEGABYTE, Row
from tests.hostile import PROGRAMS
from tests.launching import Server

LEAST = 4.0  # seconds for which others are watched
GROWTH = 400 * MEGABYTE
TIMES = 3  # by which the p95 of others may rise


def rows(server: Server) -> Iterator[Row]:
    """Each program for itself, run by `/stream`; the p95 is that of `/run` of `pass` beside it."""
    with closing(Caller(server.base_url)) as caller:
        for name, code in PROGRAMS.items():
            caller.call("POST", "/api/sessions", {"language": "python", "session_id": "hostile"})
            body = {"code": code, "timeout": 60}

            def work(body: dict[str, object] = body) -> None:
                end = time.monotonic() + LEAST
                while time.monotonic() < end:
                    for _ in caller.stream("/api/sessions/hostile/stream", body):
                        pass

            with served.peak_growth(server.process.pid) as grown:
                found = meanwhile.suffered(server.base_url, work)
            caller.call("DELETE", "/api/sessions/hostile")
            ratio = found.beside.p95 / found.alone.p95
            yield Row(f"others' p95 beside {name}", f"{found} = {ratio:.1f} x", "< 3 x alone",
                      ratio < TIMES)  # fmt: skip
            size = grown[0] / MEGABYTE
            yield Row("   server's memory grew by at most", f"{size:.0f} MB", "< 400 MB",
                      grown[0] < GROWTH)  # fmt: skip

"""Measures what others notice of bombs in JSON and of slow bodies, and what memory stays behind.

`python -m benchmarks.bodies` prints the rows; the last one waits for a minute.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psutil

from benchmarks import interference
from benchmarks.api_caller import Caller
from benchmarks.table import MEGABYTE, Row
from tests.server_process import Server, temporary_launcher

WATCH_SECONDS = 4.0  # seconds for which others are watched
MAX_SLOWDOWN = 3  # by which the p95 of others may rise
SLOW_BODIES = 1000
CALM_SECONDS = 60  # seconds after which the memory is measured
MAX_REST = 50 * MEGABYTE  # bytes that may stay
VALUES = 990_000
BIG_DISPLAY = (
    "from IPython.display import publish_display_data\n"
    "publish_display_data({'text/plain': 'x' * (110 << 20) + '\\U0001f600'})"
)

# The value of a field, each as large as a body may be, or of as many names and items.
BOMBS: dict[str, Callable[[], bytes]] = {
    "a long text": lambda: b'"%b"' % (b"x" * (31 << 20)),
    "a long text with one emoji": lambda: b'"%b"' % (b"x" * (31 << 20) + "😀".encode()),
    "escapes": lambda: b'"%b"' % (rb"\u00e9\n" * 4_000_000),
    "numbers": lambda: b"[%b1]" % (b"1.2345678901234567e-10," * VALUES),
    "huge integers": lambda: b"[%b1]" % ((b"9" * 4000 + b",") * 7900),
    "lists": lambda: b"[%b1]" % (b"[]," * VALUES),
    "names": lambda: json.dumps({f"n{n}": n for n in range(VALUES)}).encode(),
    "deep lists": lambda: b"[%b1]" % ((b"[" * 190 + b"1" + b"]" * 190 + b",") * 5000),
}


def rows(server: Server) -> Iterator[Row]:
    """Sends each bomb again and again, then slow bodies, then prints much that is wide."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    with closing(Caller(server.base_url)) as caller:
        caller.call("POST", "/api/sessions", {"language": "python", "session_id": "bombed"})
        for name, make in BOMBS.items():
            body = b'{"code":"1","update_data":{"a":%b}}' % make()
            yield _interference(server, name, lambda body=body: _send_often(server, body))
        yield _interference(server, f"{SLOW_BODIES} slow bodies", lambda: _send_slowly(server))
    with closing(Caller(server.base_url)) as caller:  # idle connections had to give way
        caller.call("POST", "/api/sessions/bombed/run", {"code": BIG_DISPLAY, "timeout": 120})
        caller.call("DELETE", "/api/sessions/bombed")
    time.sleep(CALM_SECONDS)
    rest = process.memory_info().rss - before
    yield Row(f"   memory that stays after {CALM_SECONDS} s", f"{rest / MEGABYTE:.0f} MB",
              "< 50 MB", rest < MAX_REST)  # fmt: skip


def _interference(server: Server, name: str, work: Callable[[], object]) -> Row:
    measured = interference.measure_interference(server.base_url, work)
    ratio = measured.beside.p95 / measured.alone.p95
    return Row(
        f"others' p95 beside {name}", f"{measured} = {ratio:.1f} x", "< 3 x alone",
        ratio < MAX_SLOWDOWN,
    )  # fmt: skip


def _send_often(server: Server, body: bytes) -> None:
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"))
        with closing(connection):
            connection.request("POST", "/api/sessions/bombed/run", body)
            connection.getresponse().read()


def _send_slowly(server: Server) -> None:
    host, _, port = server.base_url.removeprefix("http://").partition(":")
    head = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    with ExitStack() as stack:
        end = time.monotonic() + WATCH_SECONDS
        opened = []
        for _ in range(SLOW_BODIES):
            opened.append(stack.enter_context(socket.create_connection((host, int(port)))))
            opened[-1].sendall(head)
        while time.monotonic() < end:
            for one in opened:
                with contextlib.suppress(OSError):  # it had to give way
                    one.send(b" ")
            time.sleep(0.5)


def main() -> None:
    """Prints the rows."""
    with temporary_launcher() as launcher:
        for row in rows(launcher.start()):
            print(row, flush=True)


if __name__ == "__main__":
    main()

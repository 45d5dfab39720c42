"""A real browser for tests, the page that it shows, and a relay that cuts its connections."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import killpg
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium")
_LOOPBACK = "127.0.0.1"
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-proxy-server", "--remote-debugging-port=0",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {_LOOPBACK}, EXCLUDE *localhost",
)  # fmt: skip


@contextmanager
def open_browser(url: str) -> Iterator[Path]:
    """Shows a page in a browser, which is gone afterwards with all its processes.

    Yields the directory of its profile.
    """
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield Path(profile)
        finally:
            with suppress(ProcessLookupError):
                killpg(process.pid, signal.SIGKILL)
            process.wait()


class PageServer:
    """Serves one page, which tells what it sees by POST; `reports` has what it told, in order."""

    def __init__(self) -> None:
        self.page = ""
        self.reports: list[Any] = []
        page_server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page_server.page.encode()
                self.send_response(200 if self.path == "/" else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                page_server.reports.append(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer((_LOOPBACK, 0), Handler)
        self.origin = f"http://{_LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Relay:
    """Passes on connections to a server, and cuts the first after `cut_after` bytes of answers."""

    target_port: int
    cut_after: int
    sent: list[bytearray] = field(default_factory=list)  # by the clients, of each connection
    received: list[bytearray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server((_LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> list[str]:
        """The heads of all requests that came, which have no bodies."""
        heads = [part for sent in self.sent for part in bytes(sent).split(b"\r\n\r\n")[:-1]]
        return [head.decode("latin1") for head in heads]

    @property
    def statuses(self) -> list[int]:
        """The statuses of all answers that were passed on."""
        found = [re.findall(rb"HTTP/1\.1 (\d{3}) ", bytes(part)) for part in self.received]
        return [int(status) for statuses in found for status in statuses]

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((_LOOPBACK, self.target_port))
                self.sent.append(bytearray())
                self.received.append(bytearray())
                bound = self.cut_after if len(self.sent) == 1 else None
                for ends, log, limit in (
                    ((client, server), self.sent[-1], None),
                    ((server, client), self.received[-1], bound),
                ):
                    arguments = (*ends, log, limit)
                    threading.Thread(target=_pass_on, args=arguments, daemon=True).start()


def _pass_on(
    source: socket.socket, target: socket.socket, log: bytearray, limit: int | None
) -> None:
    """Passes on bytes until one end closes or so many have been passed on; then closes both."""
    with suppress(OSError):
        while (data := source.recv(65536)) and (limit is None or len(log) < limit):
            if limit is not None:
                data = data[: limit - len(log)]
            log += data
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

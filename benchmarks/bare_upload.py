"""Serves files by a bare Tornado handler, the peer of uploads: writes, fsyncs, sends back.

`python -m benchmarks.bare_upload DIRECTORY` prints its port and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

MAX_BODY_BYTES = 1 << 40
PIECE_BYTES = 512 * 1024


@stream_request_body
class FileHandler(RequestHandler):
    """Takes and sends one file by its name."""

    def initialize(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        self.request.connection.set_max_body_size(MAX_BODY_BYTES)  # type: ignore[union-attr]
        if self.request.method == "PUT":
            self.file = (self.directory / "incoming").open("wb")

    def data_received(self, chunk: bytes) -> None:
        self.file.write(chunk)

    def put(self, name: str) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        (self.directory / "incoming").rename(self.directory / name)

    async def get(self, name: str) -> None:
        with (self.directory / name).open("rb") as file:
            self.set_header("Content-Length", os.fstat(file.fileno()).st_size)
            while piece := file.read(PIECE_BYTES):
                self.write(piece)
                await self.flush()


async def main() -> None:
    application = Application([("/(.+)", FileHandler, {"directory": Path(sys.argv[1])})])
    sockets = bind_sockets(0, "127.0.0.1")
    HTTPServer(application).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

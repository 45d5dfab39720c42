"""Answers as KV does by an empty Tornado handler, which stores nothing: the peer of KV.

`python -m benchmarks.empty_handler VALUE_BYTES` prints its port and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler


class EmptyHandler(RequestHandler):
    """Takes a body and answers with one, each as long as that of KV."""

    def initialize(self, value: bytes) -> None:
        self.value = value

    def put(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(b'{"success":true}')

    def get(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(self.value)


async def main() -> None:
    value = json.dumps({"value": "v" * int(sys.argv[1]), "metadata": {}}, separators=(",", ":"))
    application = Application([("/.*", EmptyHandler, {"value": value.encode()})])
    sockets = bind_sockets(0, "127.0.0.1")
    HTTPServer(application).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

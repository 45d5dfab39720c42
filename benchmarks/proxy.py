"""Measures what it costs to reach a program through the server, and what others notice of it.

`python -m benchmarks.proxy` prints a table. The bare proxy that it is compared with is a Tornado
handler that fetches and answers: it finds no session, checks nothing and changes no header.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from statistics import median
from threading import Event, Thread

import httpx
from tornado.websocket import websocket_connect

from benchmarks.api_caller import peak_growth
from benchmarks.interference import measure_interference
from benchmarks.load import request_rate
from benchmarks.table import MEGABYTE, Row, ms
from tests.client import Client
from tests.server_process import Server, temporary_launcher

CLIENTS, SECONDS = 16, 4.0
REPEATS = 300  # requests one after the other
MESSAGES = 1000
DOWNLOAD = 1024 * MEGABYTE
FLOODS = 8  # downloads at once
FLOOD_SECONDS = 6.0
PORT = 8080

# A program that listens on a free port where none is given, and prints it.
PROGRAM = """
import asyncio, sys, threading
import tornado.web, tornado.websocket, tornado.httpserver, tornado.netutil

class Small(tornado.web.RequestHandler):
    def get(self):
        self.finish(b"x" * 1024)

class Large(tornado.web.RequestHandler):
    async def get(self, size):
        left, block = int(size), b"x" * (1 << 20)
        self.set_header("Content-Length", left)
        while left > 0:
            self.write(block[:left])
            left -= len(block)
            await self.flush()

class Echo(tornado.websocket.WebSocketHandler):
    def check_origin(self, origin):
        return True
    def on_message(self, message):
        self.write_message(message)

async def main(port):
    app = tornado.web.Application([("/", Small), ("/large/(.*)", Large), ("/ws", Echo)])
    sockets = tornado.netutil.bind_sockets(port, "127.0.0.1")
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
"""
ON_HOST = "asyncio.run(main(0))"
IN_SESSION = f"threading.Thread(target=asyncio.run, args=(main({PORT}),), daemon=True).start()"
BARE_PROXY = """
import asyncio, sys
import tornado.web, tornado.httpserver, tornado.netutil, tornado.httpclient

class Proxy(tornado.web.RequestHandler):
    async def get(self):
        answer = await client.fetch(sys.argv[1])
        self.finish(answer.body)

async def main():
    global client
    client = tornado.httpclient.AsyncHTTPClient(max_clients=100)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    tornado.httpserver.HTTPServer(tornado.web.Application([("/.*", Proxy)])).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def rows() -> Iterator[Row]:
    """Yields a row for each figure."""
    with temporary_launcher() as launcher, ExitStack() as stack:
        server = launcher.start()
        host = server.base_url.removeprefix("http://")
        program = stack.enter_context(_running(PROGRAM + ON_HOST))
        bare = stack.enter_context(_running(BARE_PROXY, f"http://{program}/"))
        client = stack.enter_context(closing(Client(server.base_url)))
        session = client.session("python")
        session.run(PROGRAM + IN_SESSION)
        path = f"/proxy/{session.id}/{PORT}"
        yield _rate(host, path, bare)
        yield _first_byte(f"{server.base_url}{path}/", f"http://{program}/")
        yield asyncio.run(_messages(f"ws://{host}{path}/ws"))
        yield _download(server, f"{path}/large/{DOWNLOAD}")
        yield _bystander(server, f"{path}/large/{DOWNLOAD}")


@contextmanager
def _running(code: str, *args: str) -> Iterator[str]:
    """Runs a program of this host; gives the address that it listens on."""
    argv = [sys.executable, "-c", code, *args]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def _rate(host: str, path: str, bare: str) -> Row:
    def get(path: str) -> Callable[[int], bytes]:
        return lambda _: f"GET {path}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    own: list[float] = []
    others: list[float] = []
    for _ in range(3):  # in turns, for the machine may be busier at one time than at another
        own.append(request_rate(host, CLIENTS, SECONDS, get(path)))
        others.append(request_rate(bare, CLIENTS, SECONDS, get("")))
    ratio = median(own) / median(others)
    figure = f"{median(own):.0f}/s, bare {median(others):.0f}/s = {ratio:.2f}"
    return Row(f"requests for 1 KiB of {CLIENTS} clients", figure, ">= 0.6 x bare", ratio >= 0.6)


def _first_byte(url: str, direct_url: str) -> Row:
    def measure(http: httpx.Client, url: str) -> float:
        began = time.perf_counter()
        with http.stream("GET", url) as answer:
            parts = answer.iter_raw()
            next(parts)
            taken = time.perf_counter() - began
            assert sum(map(len, parts)) < 1024
        return taken

    with httpx.Client() as http:
        times = [(measure(http, url), measure(http, direct_url)) for _ in range(REPEATS)]
    own, direct = (median(column) for column in zip(*times, strict=True))
    figure = f"{ms(own)}, direct {ms(direct)}"
    return Row("the first byte, median", figure, "<= direct + 2 ms", own - direct <= 0.002)


async def _messages(url: str) -> Row:
    connection = await websocket_connect(url)
    began = time.perf_counter()
    for number in range(MESSAGES):
        await connection.write_message(str(number))
    got = [await connection.read_message() for _ in range(MESSAGES)]
    taken = time.perf_counter() - began
    connection.close()
    in_order = got == [str(number) for number in range(MESSAGES)]
    return Row(f"{MESSAGES} messages each way by WebSocket", ms(taken), "in order", in_order)


def _download(server: Server, path: str) -> Row:
    began = time.perf_counter()
    with peak_growth(server.process.pid) as growths:
        size = _read(f"{server.base_url}{path}", Event())
    taken = time.perf_counter() - began
    figure = f"{size / taken / MEGABYTE:.0f} MB/s, +{growths[0] / MEGABYTE:.0f} MB"
    is_flat = size == DOWNLOAD and growths[0] < 16 * MEGABYTE
    return Row("1 GB down; the server's memory grows by", figure, "< 16 MB", is_flat)


def _read(url: str, stop: Event) -> int:
    size = 0
    with httpx.stream("GET", url, timeout=600) as answer:
        for chunk in answer.iter_raw():
            size += len(chunk)
            if stop.is_set():
                break
    return size


def _bystander(server: Server, path: str) -> Row:
    """Returns what another session's runs notice while a program is read from without end."""

    def flood() -> None:
        stop = Event()
        url = f"{server.base_url}{path}"
        threads = [Thread(target=_read, args=(url, stop)) for _ in range(FLOODS)]
        for thread in threads:
            thread.start()
        time.sleep(FLOOD_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()

    seen = measure_interference(server.base_url, flood)
    ratio = seen.beside.p95 / seen.alone.p95
    label = f"`/run` of `pass` beside {FLOODS} endless downloads, p95"
    return Row(label, f"{seen} = {ratio:.1f} x", "< 3 x alone", ratio < 3)


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

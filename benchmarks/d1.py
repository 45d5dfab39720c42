"""Measures D1: a point query against an empty handler of Tornado, and others under hostile SQL."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from statistics import median, quantiles

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from benchmarks.table import Row, ms
from tests.contract.sql_attacks import ATTACKS
from tests.server_process import Launcher, temporary_launcher

_processes = multiprocessing.get_context("spawn")

COUNT = 1000
NAMES = 3  # hostile namespaces, each with several clients
CLIENTS = 9


class EmptyHandler(RequestHandler):
    """Takes a body and answers as little as a handler can."""

    def post(self) -> None:
        self.finish(b'{"success":true}')


def _serve(port: Connection) -> None:
    async def run() -> None:
        sockets = bind_sockets(0, "127.0.0.1")
        HTTPServer(Application([("/", EmptyHandler)])).add_sockets(sockets)
        port.send(sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def empty_server() -> Iterator[int]:
    """Runs a server of the empty handler in a process of its own; yields its port."""
    ours, theirs = multiprocessing.Pipe()
    process = _processes.Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _poster(
    port: int, path: str, body: object
) -> tuple[http.client.HTTPConnection, Callable[[], int]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = json.dumps(body)

    def post() -> int:
        connection.request("POST", path, data)
        response = connection.getresponse()
        response.read()
        return response.status

    return connection, post


def _seconds(post: Callable[[], int], count: int, pause: float = 0.0) -> list[float]:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        status = post()
        taken.append(time.perf_counter() - began)
        assert status == 200, status
        time.sleep(pause)
    return taken


def _path(namespace: str, way: str) -> str:
    return f"/api/storage/d1/{namespace}/{way}"


def rows() -> Iterator[Row]:
    """Measures on a server of its own, which gives SQL two seconds."""
    with temporary_launcher() as launcher:
        yield from _rows(launcher)


def _rows(launcher: Launcher) -> Iterator[Row]:
    server = launcher.start("--sql-timeout", "2", "--sql-max-database", "64M")
    port = int(server.base_url.rpartition(":")[2])
    make = {"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'x')"}
    assert _poster(port, _path("bench", "exec"), make)[1]() == 200
    point = {"sql": "SELECT * FROM t WHERE id = ?", "params": [1]}
    connection, query = _poster(port, _path("bench", "query"), point)
    with closing(connection), empty_server() as empty_port:
        empty_connection, empty = _poster(empty_port, "/", point)
        with closing(empty_connection):
            yield from _point_rows(query, empty)
        insert = {"sql": "INSERT INTO t (a) VALUES (?)", "params": ["x"]}
        other, exec_ = _poster(port, _path("bench", "exec"), insert)
        with closing(other):
            yield Row("D1 insert, durable (p50)", ms(median(_seconds(exec_, 200))))
        yield from _attack_rows(port, query)


def _point_rows(query: Callable[[], int], empty: Callable[[], int]) -> Iterator[Row]:
    _seconds(query, 100)
    _seconds(empty, 100)
    ours, theirs = [], []
    for _ in range(10):  # in turn, so that both meet the same noise
        ours += _seconds(query, COUNT // 10)
        theirs += _seconds(empty, COUNT // 10)
    limit, taken = median(theirs), median(ours)
    yield Row("limit: empty Tornado handler (p50)", f"{limit * 1000:.2f} ms")
    more = taken - limit
    figure = f"{taken * 1000:.2f} ms = limit + {more * 1000:.2f}"
    yield Row("D1 point query (p50)", figure, "≤ limit + 0.6 ms", more <= 0.0006)


def _attack(port: int) -> None:
    """Sends all bombs of the tests again and again, until the process is killed."""
    bombs = [attack for attack in ATTACKS if attack.name.startswith("bomb:")]

    def send(number: int) -> None:
        while True:
            for bomb in bombs[number::CLIENTS]:
                path = _path(f"hostile{number % NAMES}", bomb.mode)
                connection, post = _poster(port, path, {"sql": bomb.sql})
                with closing(connection):
                    post()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(send, range(CLIENTS)))


def _attack_rows(port: int, query: Callable[[], int]) -> Iterator[Row]:
    idle = quantiles(_seconds(query, 400, pause=0.005), n=20)[-1]
    attackers = _processes.Process(target=_attack, args=(port,))
    attackers.start()  # a process of its own: its threads must not delay what is measured
    time.sleep(3)
    try:
        attacked = quantiles(_seconds(query, 1500, pause=0.005), n=20)[-1]
    finally:
        attackers.kill()
        attackers.join()
    yield Row("D1 point query, idle (p95)", f"{idle * 1000:.2f} ms")
    figure = f"{attacked * 1000:.2f} ms = {attacked / idle:.1f} x idle"
    yield Row("   while others send SQL attacks (p95)", figure, "< 3 x idle", attacked < 3 * idle)


def main() -> None:
    """Prints the rows of D1 alone."""
    for row in rows():
        print(row, flush=True)


if __name__ == "__main__":
    main()

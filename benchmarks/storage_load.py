"""Measures what runs notice while many clients hammer KV, D1 and R2."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing

from benchmarks.api_caller import Caller
from benchmarks.interference import measure_interference
from benchmarks.load import request_rate
from benchmarks.table import Row
from tests.server_process import Server, temporary_launcher

CLIENTS = 64
SECONDS = 6.0
KEYS = 500
OBJECT_BYTES = 2000
_RAW_TYPE = "application/octet-stream"
_VALUE = json.dumps({"value": "v" * 200}).encode()


def rows() -> Iterator[Row]:
    """Yields a row for each store, each on a server of its own."""
    for store, make_request in (("KV", _kv), ("D1", _d1), ("R2", _r2)):
        with temporary_launcher() as launcher:
            yield _row(launcher.start(), store, make_request)


def _row(server: Server, store: str, make_request: Callable[[int], bytes]) -> Row:
    host = server.base_url.removeprefix("http://")
    _prepare(server)
    rates: list[float] = []
    seen = measure_interference(
        server.base_url, lambda: rates.append(request_rate(host, CLIENTS, SECONDS, make_request))
    )
    ratio = seen.beside.p95 / seen.alone.p95
    label = f"`/run` of `pass` while {CLIENTS} clients hammer {store}, p95"
    figure = f"{seen} = {ratio:.1f} x, at {rates[0]:.0f}/s"
    return Row(label, figure, "< 3 x alone", ratio < 3)


def _prepare(server: Server) -> None:
    """Makes what the requests read."""
    with closing(Caller(server.base_url)) as caller:
        caller.call("POST", "/api/storage/d1/load/exec", {"sql": "CREATE TABLE t (a)"})
        for number in range(KEYS):
            caller.call("PUT", f"/api/storage/kv/load/{number}", {"value": "v"})
            caller.call("PUT", f"/api/storage/r2/load/{number}", {"content": "dg=="})


def _request(method: str, path: str, body: bytes = b"", media: str = "application/json") -> bytes:
    head = f"{method} /api/storage/{path} HTTP/1.1\r\nHost: localhost\r\nAccept: {media}\r\n"
    return f"{head}Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _kv(number: int) -> bytes:
    path = f"kv/load/{number % KEYS}"
    return _request("PUT", path, _VALUE) if number % 2 else _request("GET", path)


def _d1(number: int) -> bytes:
    if number % 2:
        sql = {"sql": "INSERT INTO t VALUES (?)", "params": [number]}
        return _request("POST", "d1/load/exec", json.dumps(sql).encode())
    sql = {"sql": "SELECT count(*) FROM t"}
    return _request("POST", "d1/load/query", json.dumps(sql).encode())


def _r2(number: int) -> bytes:
    path = f"r2/load/{number % KEYS}"
    if number % 2:
        return _request("PUT", path, b"v" * OBJECT_BYTES, _RAW_TYPE)
    return _request("GET", path, media=_RAW_TYPE if number % 4 else "application/json")


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

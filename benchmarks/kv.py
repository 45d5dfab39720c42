"""Measures KV: beside an empty handler, and with a million keys."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.api_caller import Caller
from benchmarks.load import request_rate
from benchmarks.table import Row, ms
from era_kernels.models import StorageQuotas
from era_kernels.storage.database import Database
from era_kernels.storage.kv import KVStore
from era_kernels.storage.migrations import MIGRATIONS
from tests.server_process import Server, temporary_launcher

CLIENTS = 64
VALUE_BYTES = 200
KEYS = 10_000  # keys that the clients put
GOT_KEYS = 500  # keys that they get
ROUNDS = 5
ROUND_SECONDS = 2.0
FEW, MANY = 1_000, 1_000_000
REQUESTS = 1000  # of which the median counts

_VALUE = "v" * VALUE_BYTES
_BODY = json.dumps({"value": _VALUE}).encode()


def rows(*, long: bool = False) -> Iterator[Row]:
    """Yields all rows of this module; `long` fills a namespace with a million keys."""
    with temporary_launcher() as launcher:
        server = launcher.start()
        yield from _rate_rows(server)
    if long:
        yield from _size_rows()


# ---------------------------------------------------------------- beside an empty handler


def _rate_rows(server: Server) -> Iterator[Row]:
    host = server.base_url.removeprefix("http://")
    with closing(Caller(server.base_url)) as caller:
        for number in range(GOT_KEYS):
            caller.call("PUT", f"/api/storage/kv/bench/{_key(number)}", {"value": _VALUE})
    with empty_server() as peer:
        for what, make_request in (("put, durable", _put), ("get", _get)):
            pairs = [(_rate(peer, make_request), _rate(host, make_request)) for _ in range(ROUNDS)]
            own, ratio = median(own for _, own in pairs), median(own / bare for bare, own in pairs)
            figure = f"{own:.0f}/s = {ratio:.2f} x empty"
            yield Row(f"KV {what}, {CLIENTS} clients", figure, "≥ 0.5 x empty", ratio >= 0.5)


def _rate(host: str, make_request: Callable[[int], bytes]) -> float:
    return request_rate(host, CLIENTS, ROUND_SECONDS, make_request)


def _key(number: int) -> str:
    return f"key-{number:06}"


def _put(number: int) -> bytes:
    head = f"PUT /api/storage/kv/bench/{_key(number % KEYS)} HTTP/1.1\r\nHost: localhost\r\n"
    return f"{head}Content-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY


def _get(number: int) -> bytes:
    key = _key(number % GOT_KEYS)
    return f"GET /api/storage/kv/bench/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@contextmanager
def empty_server() -> Iterator[str]:
    """Starts the empty handler in a process of its own; yields host and port."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.empty_handler", str(VALUE_BYTES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


# ---------------------------------------------------------------- many keys


def _size_rows() -> Iterator[Row]:
    """Measures two servers in turns, of which one has a thousand times the keys of the other."""
    with temporary_launcher() as few_keys, temporary_launcher() as many_keys:
        callers = {}
        for count, launcher in ((FEW, few_keys), (MANY, many_keys)):
            launcher.start().stop()
            asyncio.run(_fill(launcher.data_dir, range(count)))
            callers[count] = Caller(launcher.start().base_url)
        for what, make_path in (("get", _get_path), ("list of 100", _list_path)):
            random, taken = Random(3), {FEW: list[float](), MANY: list[float]()}
            for _ in range(REQUESTS):
                for count, caller in callers.items():
                    taken[count].append(_timed(caller, make_path(random.randrange(count))))
            few, many = median(taken[FEW]), median(taken[MANY])
            figure = f"{ms(many)} = {many / few:.2f} x {ms(few)}"
            yield Row(f"KV {what}, {MANY} keys against {FEW}, p50", figure, "≤ 2 x",
                      many <= 2 * few)  # fmt: skip
        for caller in callers.values():
            caller.close()


def _get_path(number: int) -> str:
    return f"/api/storage/kv/size/{number:08}"


def _list_path(number: int) -> str:
    return f"/api/storage/kv/size?prefix={f'{number:08}'[:6]}&limit=100"


def _timed(caller: Caller, path: str) -> float:
    began = time.perf_counter()
    caller.bytes("GET", path)
    return time.perf_counter() - began


async def _fill(data_dir: Path, numbers: range) -> None:
    """Puts keys in no order, by the store itself: HTTP would take many minutes."""
    keys = list(numbers)
    Random(5).shuffle(keys)
    database = await Database.open(data_dir / "era.db", MIGRATIONS)
    kv = KVStore(database, StorageQuotas(), VALUE_BYTES)
    for start in range(0, len(keys), 1000):
        batch = keys[start : start + 1000]
        await asyncio.gather(*(kv.put("size", f"{key:08}", _VALUE) for key in batch))
    await database.aclose()


if __name__ == "__main__":
    for row in rows(long="--long" in sys.argv):
        print(row, flush=True)

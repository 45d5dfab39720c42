"""Prints one table: each figure beside the limit or the peer of the same run, and the target."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from statistics import median

from benchmarks import deaths, faults, files, hostile, limit, scale, served, walls
from benchmarks.served import PATH, Caller
from benchmarks.table import MEGABYTE, Row, ms
from tests.launching import Server, launching

RUNS = 200
LINES = "for n in range(100_000):\n    print('%08d' % n + '.' * 91)"
EXPECTED = "".join(f"{n:08d}{'.' * 91}\n" for n in range(100_000))
ONE_SHOT = "print(sum(range(1000)))"
FILE_SIZES, LONG_SIZES = [50], [1024]  # MB


def limits() -> Iterator[Row]:
    """Round trips of `pass` in a kernel that is driven directly."""
    stock = asyncio.run(limit.pass_median(limit.STOCK, RUNS))
    own = asyncio.run(limit.pass_median(limit.own_argv("python"), RUNS))
    _measured["limit"] = stock
    yield Row("limit: bare client, stock ipykernel, `pass`", ms(stock))
    yield Row("       bare client, our launcher, `pass`", ms(own))


def isolation() -> Iterator[Row]:
    """The same kernels with and without walls."""
    bare, inside = asyncio.run(walls.costs(20))
    yield Row("kernel to its first reply, no walls", ms(bare.start))
    what = f"kernel to its first reply, tier {inside.tier}"
    yield Row(what, ms(inside.start), "≤ 100 ms", inside.start <= 0.1)
    more = inside.start - bare.start
    yield Row("   more than without", ms(more), "≤ 15 ms", more <= 0.015)
    yield Row("   20 at once", ms(inside.crowd), "≤ 1 200 ms", inside.crowd <= 1.2)
    memory = inside.memory / MEGABYTE
    yield Row("   an idle session's memory (PSS)", f"{memory:.1f} MB", "≤ 25 MB", memory <= 25)


def runs(caller: Caller) -> Iterator[Row]:
    caller.call("POST", "/api/sessions", {"language": "python", "session_id": "bench"})
    taken = served.run_median(caller, RUNS)
    ratio = taken / _measured["limit"]
    figure = f"{ms(taken)} = {ratio:.2f} x limit"
    yield Row("POST /run of `pass`", figure, "≤ 1.5 x limit", ratio <= 1.5)
    first = served.first_event_median(caller, 20)
    yield Row("first stdout event after the print", ms(first), "≤ 30 ms", first <= 0.03)
    fresh = served.fresh_median(caller, 20)
    yield Row("create a session and its first run", ms(fresh), "≤ 100 ms", fresh <= 0.1)


def one_shots(caller: Caller) -> Iterator[Row]:
    plain = median(_plain_seconds() for _ in range(10))
    taken = served.execute_median(caller, ONE_SHOT, 20)
    ratio = taken / plain
    figure = f"{ms(taken)} = {ratio:.2f} x {ms(plain)}"
    yield Row("POST /api/execute against `python3 -c`", figure, "≤ 3 x", ratio <= 3)


def _plain_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", ONE_SHOT], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def output(caller: Caller, server: Server) -> Iterator[Row]:
    bare = asyncio.run(limit.output_seconds(limit.STOCK, LINES))
    with served.peak_growth(server.process.pid) as grown:
        began = time.perf_counter()
        frames = list(caller.stream(f"{PATH}/stream", {"code": LINES}))
        taken = time.perf_counter() - began
        stored = caller.bytes("GET", f"{PATH}/executions/{frames[-1].data['execution_id']}/stdout")
    streamed = "".join(frame.data["content"] for frame in frames if frame.event == "stdout")
    whole = streamed == EXPECTED and stored == EXPECTED.encode()
    yield Row("10 MB in 100 000 lines, /stream and /stdout", "byte-exact" if whole else "NOT WHOLE",
              "byte-exact", whole)  # fmt: skip
    ratio = bare / taken
    figure = f"{10 / taken:.1f} MB/s = {ratio:.2f} x limit"
    yield Row("   throughput of /stream", figure, "≥ 0.5 x limit", ratio >= 0.5)
    growth = grown[0] / MEGABYTE
    yield Row("   server's memory grew by at most", f"{growth:.1f} MB", "< 50 MB", growth < 50)


def crowd(caller: Caller, server: Server) -> Iterator[Row]:
    """Twenty sessions at once; each thread has a connection of its own."""
    began = time.perf_counter()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(_one_of_many, [(server.base_url, number) for number in range(20)]))
    taken = time.perf_counter() - began
    yield Row("20 sessions created and run at once", ms(taken), "≤ 1 200 ms", taken <= 1.2)
    for number in range(20):
        caller.call("DELETE", f"/api/sessions/crowd-{number}")


def _one_of_many(job: tuple[str, int]) -> None:
    base_url, number = job
    with closing(Caller(base_url)) as caller:
        created = {"language": "python", "session_id": f"crowd-{number}"}
        caller.call("POST", "/api/sessions", created)
        caller.call("POST", f"/api/sessions/crowd-{number}/run", {"code": "pass"})


_measured: dict[str, float] = {}


def main() -> int:
    """Measure everything; the number of targets that were missed is the exit code.

    `--long` moves a large file, too.
    """
    missed, long = 0, "--long" in sys.argv

    def show(rows: Iterator[Row]) -> None:
        nonlocal missed
        for row in rows:
            print(row, flush=True)
            missed += not row.reached

    show(limits())
    show(isolation())
    with launching() as launcher:
        server = launcher.start()
        with closing(Caller(server.base_url)) as caller:
            parts: list[Callable[[], Iterator[Row]]] = [
                lambda: runs(caller),
                lambda: one_shots(caller),
                lambda: output(caller, server),
                lambda: crowd(caller, server),
                lambda: deaths.rows(caller),
                lambda: files.rows(caller, server, FILE_SIZES + LONG_SIZES * long),
                lambda: hostile.rows(server),
            ]
            for part in parts:
                show(part())
    show(scale.rows())
    show(faults.rows())
    return missed


if __name__ == "__main__":
    sys.exit(main())

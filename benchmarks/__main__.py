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

from benchmarks import (
    api_caller,
    baseline,
    bodies,
    d1,
    deaths,
    faults,
    files,
    go,
    hostile,
    internet,
    isolation_cost,
    kv,
    languages,
    objects,
    proxy,
    scale,
    storage_load,
    transport_cost,
)
from benchmarks.api_caller import PATH, Caller
from benchmarks.table import MEGABYTE, Row, ms
from tests.server_process import Server, temporary_launcher

RUNS = 200
PRINT_LINES = "for n in range(100_000):\n    print('%08d' % n + '.' * 91)"
EXPECTED_OUTPUT = "".join(f"{n:08d}{'.' * 91}\n" for n in range(100_000))
ONE_SHOT = "print(sum(range(1000)))"
FILE_SIZES, LONG_FILE_SIZES = [50], [1024]  # MB


def baselines() -> Iterator[Row]:
    """Measures round trips of `pass` in a kernel that is driven directly."""
    stock = asyncio.run(baseline.pass_median(baseline.STOCK_ARGV, RUNS))
    own = asyncio.run(baseline.pass_median(baseline.own_argv("python"), RUNS))
    _measured["limit"] = stock
    yield Row("limit: bare client, stock ipykernel, `pass`", ms(stock))
    yield Row("       bare client, our launcher, `pass`", ms(own))


def isolation() -> Iterator[Row]:
    """Compares the same kernels with and without a sandbox."""
    unsandboxed, sandboxed = asyncio.run(isolation_cost.measure_costs(20))
    yield Row("kernel to its first reply, no walls", ms(unsandboxed.start_seconds))
    what = f"kernel to its first reply, tier {sandboxed.tier}"
    yield Row(what, ms(sandboxed.start_seconds), "≤ 100 ms", sandboxed.start_seconds <= 0.1)
    difference = sandboxed.start_seconds - unsandboxed.start_seconds
    yield Row("   more than without", ms(difference), "≤ 15 ms", difference <= 0.015)
    yield Row(
        "   20 at once", ms(sandboxed.twenty_seconds), "≤ 1 200 ms", sandboxed.twenty_seconds <= 1.2
    )
    memory = sandboxed.memory_bytes / MEGABYTE
    yield Row("   an idle session's memory (PSS)", f"{memory:.1f} MB", "≤ 25 MB", memory <= 25)


def runs(caller: Caller) -> Iterator[Row]:
    caller.call("POST", "/api/sessions", {"language": "python", "session_id": "bench"})
    taken = api_caller.run_median(caller, RUNS)
    ratio = taken / _measured["limit"]
    figure = f"{ms(taken)} = {ratio:.2f} x limit"
    yield Row("POST /run of `pass`", figure, "≤ 1.5 x limit", ratio <= 1.5)
    first = api_caller.first_event_median(caller, 20)
    yield Row("first stdout event after the print", ms(first), "≤ 30 ms", first <= 0.03)
    fresh = api_caller.fresh_median(caller, 20)
    yield Row("create a session and its first run", ms(fresh), "≤ 100 ms", fresh <= 0.1)


def one_shots(caller: Caller) -> Iterator[Row]:
    plain = median(_plain_seconds() for _ in range(10))
    taken = api_caller.execute_median(caller, ONE_SHOT, 20)
    ratio = taken / plain
    figure = f"{ms(taken)} = {ratio:.2f} x {ms(plain)}"
    yield Row("POST /api/execute against `python3 -c`", figure, "≤ 3 x", ratio <= 3)


def _plain_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", ONE_SHOT], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def output(caller: Caller, server: Server) -> Iterator[Row]:
    bare = asyncio.run(baseline.output_seconds(baseline.STOCK_ARGV, PRINT_LINES))
    with api_caller.peak_growth(server.process.pid) as growths:
        began = time.perf_counter()
        frames = list(caller.stream(f"{PATH}/stream", {"code": PRINT_LINES}))
        taken = time.perf_counter() - began
        stored = caller.bytes("GET", f"{PATH}/executions/{frames[-1].data['execution_id']}/stdout")
    streamed = "".join(frame.data["content"] for frame in frames if frame.event == "stdout")
    is_whole = streamed == EXPECTED_OUTPUT and stored == EXPECTED_OUTPUT.encode()
    figure = "byte-exact" if is_whole else "NOT WHOLE"
    yield Row("10 MB in 100 000 lines, /stream and /stdout", figure, "byte-exact", is_whole)
    ratio = bare / taken
    figure = f"{10 / taken:.1f} MB/s = {ratio:.2f} x limit"
    yield Row("   throughput of /stream", figure, "≥ 0.5 x limit", ratio >= 0.5)
    growth = growths[0] / MEGABYTE
    yield Row("   server's memory grew by at most", f"{growth:.1f} MB", "< 50 MB", growth < 50)


def concurrent_sessions(caller: Caller, server: Server) -> Iterator[Row]:
    """Measures twenty sessions at once; each thread has a connection of its own."""
    began = time.perf_counter()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(_create_and_run, [(server.base_url, number) for number in range(20)]))
    taken = time.perf_counter() - began
    yield Row("20 sessions created and run at once", ms(taken), "≤ 1 200 ms", taken <= 1.2)
    for number in range(20):
        caller.call("DELETE", f"/api/sessions/crowd-{number}")


def _create_and_run(job: tuple[str, int]) -> None:
    base_url, number = job
    with closing(Caller(base_url)) as caller:
        created = {"language": "python", "session_id": f"crowd-{number}"}
        caller.call("POST", "/api/sessions", created)
        caller.call("POST", f"/api/sessions/crowd-{number}/run", {"code": "pass"})


_measured: dict[str, float] = {}


def main() -> int:
    """Measures everything; the number of targets that were missed is the exit code.

    `--long` moves a large file, too.
    """
    missed, long = 0, "--long" in sys.argv

    def show(rows: Iterator[Row]) -> None:
        nonlocal missed
        for row in rows:
            print(row, flush=True)
            missed += not row.is_reached

    show(baselines())
    show(isolation())
    show(transport_cost.rows())
    with temporary_launcher() as launcher:
        server = launcher.start()
        with closing(Caller(server.base_url)) as caller:
            parts: list[Callable[[], Iterator[Row]]] = [
                lambda: runs(caller),
                lambda: one_shots(caller),
                lambda: output(caller, server),
                lambda: concurrent_sessions(caller, server),
                lambda: deaths.rows(caller),
                lambda: files.rows(caller, server, FILE_SIZES + LONG_FILE_SIZES * long),
                lambda: objects.rows(server, FILE_SIZES + LONG_FILE_SIZES * long),
                lambda: hostile.rows(server),
                lambda: bodies.rows(server),
                lambda: go.rows(caller, server, long=long),
            ]
            for part in parts:
                show(part())
    show(languages.rows())
    show(scale.rows())
    show(faults.rows())
    show(d1.rows())
    show(kv.rows(long=long))
    show(storage_load.rows())
    show(proxy.rows())
    show(internet.rows())
    return missed


if __name__ == "__main__":
    sys.exit(main())

"""Measures many sessions: their list, their deletion, and their cost while nothing runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from statistics import median

import psutil

from benchmarks.api_caller import Caller
from benchmarks.interference import polling_neighbour
from benchmarks.table import MEGABYTE, Row, ms
from tests.server_process import Launcher, Server, temporary_launcher

SIZES = (1_000, 2_500, 5_000, 10_000)
LIST_ROUNDS = 9  # lists of each size
CALLERS = 8  # connections that create sessions side by side
KERNELS = 50
DELETED_SESSIONS = 1_000
IDLE_SECONDS = 10.0  # seconds for which the idle server is watched


def rows() -> Iterator[Row]:
    """Yields all rows of this module; each part has a server of its own."""
    for part in (listing, deletion, idle):
        with temporary_launcher() as launcher:
            yield from part(launcher)


# ---------------------------------------------------------------- the list


def listing(launcher: Launcher) -> Iterator[Row]:
    """Measures `GET /api/sessions` without a limit, as the sessions become more."""
    server = launcher.start()
    taken: dict[int, float] = {}
    with closing(Caller(server.base_url)) as caller:
        for size in SIZES:
            create(server, range(max(taken, default=0), size))
            taken[size] = median(_list_seconds(caller) for _ in range(LIST_ROUNDS))
        with polling_neighbour(server.base_url) as latencies:
            for _ in range(LIST_ROUNDS):
                _list_seconds(caller)
    for size, seconds in taken.items():
        last = size == SIZES[-1]
        yield Row(f"list of {size} sessions", ms(seconds), "< 250 ms" if last else "",
                  seconds < 0.25 or not last)  # fmt: skip
    growth = taken[SIZES[-1]] / taken[SIZES[1]]
    linear = SIZES[-1] / SIZES[1]
    yield Row(f"   {SIZES[-1]} against {SIZES[1]}", f"{growth:.2f} x", f"≤ {linear * 1.25:.0f} x",
              growth <= linear * 1.25)  # fmt: skip
    yield Row("   GET /health meanwhile, p95", ms(latencies.p95), "< 100 ms", latencies.p95 < 0.1)


def _list_seconds(caller: Caller) -> float:
    began = time.perf_counter()
    caller.bytes("GET", "/api/sessions")
    return time.perf_counter() - began


# ---------------------------------------------------------------- the deletion


def deletion(launcher: Launcher) -> Iterator[Row]:
    """Measures `DELETE /api/sessions`, with a kernel in some of them."""
    server = launcher.start("--max-kernels", str(KERNELS))
    before = len(psutil.Process(server.process.pid).children(recursive=True))
    create(server, range(DELETED_SESSIONS))
    start_kernels(server, range(KERNELS))
    with (
        closing(Caller(server.base_url)) as caller,
        polling_neighbour(server.base_url, create=True) as latencies,
    ):
        began = time.perf_counter()
        deleted = caller.call("DELETE", "/api/sessions")["deleted_count"]
        taken = time.perf_counter() - began
    left = len(psutil.Process(server.process.pid).children(recursive=True))
    figure = f"{taken:.2f} s"
    yield Row(f"deletion of {DELETED_SESSIONS} sessions, {KERNELS} with a kernel", figure, "< 20 s",
              taken < 20 and deleted >= DELETED_SESSIONS)  # fmt: skip
    yield Row("   GET /health and creations meanwhile, p95", ms(latencies.p95), "< 100 ms",
              latencies.p95 < 0.1)  # fmt: skip
    yield Row("   processes that it left", str(left - before), "0", left <= before)


# ---------------------------------------------------------------- at rest


def idle(launcher: Launcher) -> Iterator[Row]:
    """Measures sessions whose kernels are idle."""
    empty = launcher.start("--max-kernels", str(KERNELS))
    process = psutil.Process(empty.process.pid)
    before = process.memory_info().rss / MEGABYTE
    create(empty, range(KERNELS))
    start_kernels(empty, range(KERNELS))
    time.sleep(2)  # seconds until the work after the runs is over
    used, began = _cpu_seconds(process), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    share = (_cpu_seconds(process) - used) / (time.perf_counter() - began)
    all_used = f"{share * 100:.2f} % of a core"
    yield Row(f"{KERNELS} idle sessions: CPU of server and kernels", all_used, "≤ 2 %",
              share <= 0.02)  # fmt: skip
    session_memory = median(session_pss(process)) / MEGABYTE
    yield Row("   memory of each, PSS", f"{session_memory:.1f} MB", "≤ 25 MB", session_memory <= 25)
    after = process.memory_info().rss / MEGABYTE
    yield Row("   the server's memory, RSS", f"{before:.0f} MB, then {after:.0f} MB")


def _cpu_seconds(server: psutil.Process) -> float:
    """Returns the CPU seconds that the server and all its descendants have used."""
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def session_pss(server: psutil.Process, at_least: int = 1) -> Iterator[float]:
    """Yields the PSS of each session in bytes: its init and all that the init started.

    Inits with fewer than `at_least` processes, themselves included, are left out.
    """
    for zygote in server.children():
        for init in zygote.children():
            family = (init, *init.children(recursive=True))
            if len(family) >= at_least:
                yield sum(one.memory_full_info().pss for one in family)


# ---------------------------------------------------------------- sessions


def create(server: Server, numbers: range) -> None:
    """Creates sessions as users do: with labels, and some with kilobytes of data."""
    _each(server, numbers, _create)


def _create(caller: Caller, number: int) -> None:
    caller.call(
        "POST",
        "/api/sessions",
        {
            "language": "python",
            "session_id": f"many-{number}",
            "metadata": {
                "owner": f"user-{number % 97}@example.org",
                "title": "Größenvergleich der Messreihen",
                "tags": ["benchmark", f"group-{number % 13}"],
                "step": number,
            },
            "data": {"rows": [{"n": n, "text": "x" * 50} for n in range(number % 60)]},
        },
    )


def start_kernels(server: Server, numbers: range) -> None:
    """Starts a run in each of these sessions."""
    _each(server, numbers, _run)


def _run(caller: Caller, number: int) -> None:
    caller.call("POST", f"/api/sessions/many-{number}/run", {"code": "x = 1"})


def _each(server: Server, numbers: range, call: Callable[[Caller, int], None]) -> None:
    with ThreadPoolExecutor(CALLERS) as pool:
        shares = [numbers[start::CALLERS] for start in range(CALLERS)]
        for done in [pool.submit(_share, server.base_url, share, call) for share in shares]:
            done.result()


def _share(base_url: str, numbers: range, call: Callable[[Caller, int], None]) -> None:
    with closing(Caller(base_url)) as caller:
        for number in numbers:
            call(caller, number)


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

"""Measures how soon readers learn that a kernel died, and how soon the session is usable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median

from benchmarks.api_caller import Caller
from benchmarks.table import Row, ms
from tests.server_process import temporary_launcher

DEATH_PROGRAMS = {
    "os.kill(os.getpid(), 9)": "os.kill(os.getpid(), 9)",
    "os._exit(7)": "os._exit(7)",
    "a segmentation fault": "ctypes.string_at(0)",
    "abort()": "os.abort()",
}
ROUNDS = 20
PATH = "/api/sessions/deaths"
# The dying process itself reads the clock and prints the time before it dies.
PROGRAM = "import ctypes, os, time\nprint(repr(time.time()), flush=True)\n{}"


@dataclass
class DeathTimes:
    """The seconds from each death to its `error` frame, to `done`, and then to the next run."""

    error: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    usable: list[float] = field(default_factory=list)


def rows(caller: Caller, count: int = ROUNDS) -> Iterator[Row]:
    """Yields one row for each way to die, and one for the run after it."""
    caller.call("POST", "/api/sessions", {"language": "python", "session_id": "deaths"})
    usable: list[float] = []
    for name, code in DEATH_PROGRAMS.items():
        times = measure_deaths(caller, code, count)
        usable += times.usable
        error = median(times.error)
        figure = f"{ms(error)}, done {ms(median(times.done))}"
        yield Row(f"{name}: told to a reader after", figure, "≤ 100 ms", error <= 0.1)
    next_run = median(usable)
    yield Row("   the next run answered after", ms(next_run), "≤ 150 ms", next_run <= 0.15)
    caller.call("DELETE", PATH)


def measure_deaths(caller: Caller, code: str, count: int) -> DeathTimes:
    """Kills so many kernels of the session."""
    times = DeathTimes()
    for _ in range(count):
        caller.call("POST", f"{PATH}/run", {"code": "pass"})
        died = 0.0
        for frame in caller.stream(f"{PATH}/stream", {"code": PROGRAM.format(code)}):
            if frame.event == "stdout":
                died = float(frame.data["content"])
            elif frame.event == "error":
                times.error.append(time.time() - died)
            elif frame.event == "done":
                times.done.append(time.time() - died)
        began = time.perf_counter()
        answer = caller.call("POST", f"{PATH}/run", {"code": "print(1)"})
        times.usable.append(time.perf_counter() - began)
        if answer["stdout"] != "1\n":
            raise RuntimeError(json.dumps(answer))
    return times


def main() -> None:
    with temporary_launcher() as launcher, closing(Caller(launcher.start().base_url)) as caller:
        for row in rows(caller):
            print(row, flush=True)


if __name__ == "__main__":
    main()

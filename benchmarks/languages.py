"""Measures the kernels of Node, TypeScript and Deno beside the plain tool, in the same run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from benchmarks.api_caller import Caller
from benchmarks.faults import InterruptedRun, interrupt_run
from benchmarks.scale import session_pss
from benchmarks.table import MEGABYTE, Row, ms
from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.layout import default_toolchain_dir, find_toolchain
from tests.server_process import Server, temporary_launcher

HELLO_RUNS, STARTS, PLAIN_STARTS, IDLE_SESSIONS = 100, 10, 10, 8
INTERRUPTS, MEMORY_RUNS = 10, 500
LINES = 1_000_000
PRINT_LINES = f"for (let n = 0; n < {LINES}; n++) console.log('line', n);"
WAITS = {
    "a busy loop": ("for (;;);", 0.05),
    "a loop in a microtask": ("await null; Promise.resolve().then(() => { for (;;); });", 0.05),
    "a pending await": ("setInterval(() => {}, 1000); await new Promise(() => {});", None),
}
# Leaves a function, a class and an array behind, as real cells do.
STEADY_RUN = """
function total{0}(list{type}) {{ return list.length }}
class Item{0} {{ value = [1, 2, 3] }}
let kept = Array.from({{ length: 1000 }}, () => new Item{0}());
console.log(total{0}(kept));
"""


@dataclass(frozen=True)
class Bench:
    """A language, its plain program, and what is to be reached.

    A machine at work is slower for both: seconds count as reached, too, when they are below the
    given part of what the plain tool takes for hello world.
    """

    language: str
    file: str
    hello: str
    any_type: str  # as the type of a parameter is written
    run_seconds: float
    run_ratio: float
    start_seconds: float
    start_ratio: float
    idle_megabytes: float
    command: tuple[str, ...] = ("node", "--no-warnings")


BENCHES = (
    Bench("node", "main.js", "console.log('hello')", "", 0.008, 0.2, 0.15, 3.75, 40),
    Bench(
        "typescript",
        "main.ts",
        "const text: string = 'hello'; console.log(text)",
        ": unknown[]",
        0.008,
        0.2,
        0.3,
        3.75,
        65,
    ),
    Bench(
        "deno",
        "main.ts",
        "const text: string = 'hello'; console.log(text)",
        ": unknown[]",
        0.01,
        0.2,
        0.25,
        3.75,
        190,
        ("deno", "run", "--quiet", "--allow-all"),
    ),
)


def rows() -> Iterator[Row]:
    """Yields the rows of each language that is installed."""
    for bench in BENCHES:
        programs = _find_programs(bench.language)
        if programs is None:
            yield Row(f"{bench.language}: not installed", "", "installed", False)
            continue
        with temporary_launcher() as launcher, TemporaryDirectory(prefix="era-bench-") as directory:
            server = launcher.start()
            with closing(Caller(server.base_url)) as caller:
                plain = PlainTool(programs, Path(directory), bench)
                yield from _hello(caller, plain, bench)
                yield from _starts(caller, plain, bench)
                yield from _idle(caller, server, bench)
                yield from _output(caller, plain, bench)
                yield from _interrupts(caller, server, bench)
                yield from _memory(caller, server, bench)


def _find_programs(language: str) -> Path | None:
    toolchain = find_toolchain(builtin_dir() / language, default_toolchain_dir(), (builtin_dir(),))
    if toolchain is None or toolchain.read_installed() is None:
        return None
    return toolchain.bin


class PlainTool:
    """Plain `node` or `deno run`, which runs a program of the language from a file."""

    def __init__(self, programs: Path, directory: Path, bench: Bench) -> None:
        program, *options = bench.command
        self._command = [programs / program, *options]
        self._file = directory / bench.file
        self._hello = bench.hello

    def run(self, code: str) -> tuple[bytes, float]:
        """Returns what the program writes into a pipe, and the seconds that it takes."""
        self._file.write_text(code, encoding="utf-8")
        began = time.perf_counter()
        command = [*self._command, self._file]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        return done.stdout, time.perf_counter() - began

    def hello_seconds(self) -> float:
        return median(self.run(self._hello)[1] for _ in range(PLAIN_STARTS))


def _hello(caller: Caller, plain: PlainTool, bench: Bench) -> Iterator[Row]:
    path = _create(caller, bench, "hello")
    for _ in range(20):
        _run(caller, path, bench.hello)
    taken = median(_seconds(caller, path, bench.hello) for _ in range(HELLO_RUNS))
    yield _beside(
        f"{bench.language}: POST /run of hello world",
        taken,
        plain.hello_seconds(),
        (bench.run_seconds, bench.run_ratio),
    )
    caller.call("DELETE", path)


def _starts(caller: Caller, plain: PlainTool, bench: Bench) -> Iterator[Row]:
    taken = []
    for number in range(STARTS):
        began = time.perf_counter()
        path = _create(caller, bench, f"start-{number}")
        _run(caller, path, bench.hello)
        taken.append(time.perf_counter() - began)
        caller.call("DELETE", path)
    target = bench.start_seconds, bench.start_ratio
    label = "   create a session and its first run"
    yield _beside(label, median(taken), plain.hello_seconds(), target)


def _beside(label: str, taken: float, plain: float, target: tuple[float, float]) -> Row:
    """Returns the row of a time that is to be below so many seconds, or that part of another."""
    seconds, ratio = target
    is_reached = taken <= seconds or taken <= ratio * plain
    figure = f"{ms(taken)} = {taken / plain:.2f} x {ms(plain)}"
    return Row(label, figure, f"≤ {seconds * 1000:.0f} ms or {ratio} x plain", is_reached)


def _idle(caller: Caller, server: Server, bench: Bench) -> Iterator[Row]:
    paths = [_create(caller, bench, f"idle-{number}") for number in range(IDLE_SESSIONS)]
    for path in paths:
        _run(caller, path, bench.hello)
    time.sleep(2)  # seconds until the work after the runs is over
    memory = _session_megabytes(server)
    target = bench.idle_megabytes
    yield Row("   memory of an idle session, PSS", f"{memory:.1f} MB", f"≤ {target:.0f} MB",
              memory <= target)  # fmt: skip
    for path in paths:
        caller.call("DELETE", path)


def _session_megabytes(server: Server) -> float:
    """Returns the median memory of sessions that have a kernel."""
    return median(session_pss(psutil.Process(server.process.pid), at_least=2)) / MEGABYTE


def _output(caller: Caller, plain: PlainTool, bench: Bench) -> Iterator[Row]:
    path = _create(caller, bench, "output")
    _run(caller, path, bench.hello)
    expected, plain_seconds = plain.run(PRINT_LINES)
    began = time.perf_counter()
    frames = list(caller.stream(f"{path}/stream", {"code": PRINT_LINES, "timeout": 120}))
    taken = time.perf_counter() - began
    execution = frames[-1].data["execution_id"]
    stored = caller.bytes("GET", f"{path}/executions/{execution}/stdout")
    streamed = "".join(frame.data["content"] for frame in frames if frame.event == "stdout")
    is_whole = streamed.encode() == expected == stored
    label = f"   {LINES:,} console.log".replace(",", " ")
    yield Row(label, "byte-exact" if is_whole else "NOT WHOLE", "byte-exact", is_whole)
    yield Row("   in", f"{taken:.1f} s = {taken / plain_seconds:.2f} x {plain_seconds:.1f} s")
    caller.call("DELETE", path)


def _interrupts(caller: Caller, server: Server, bench: Bench) -> Iterator[Row]:
    path = _create(caller, bench, "interrupts")
    session = path.rpartition("/")[2]
    for name, (wait, limit) in WAITS.items():
        _run(caller, path, "var kept = 7")
        code = f"console.log('on');\n{wait}"
        taken = [interrupt_run(server, caller, session, code) for _ in range(INTERRUPTS)]
        is_there = _run(caller, path, "console.log(kept)") == "7\n"
        is_kept = is_there and all(map(_is_state_kept, taken))
        ended = median(one.ended for one in taken)
        yield Row(
            f"   interrupt of {name}: ended after",
            f"{ms(ended)}, {'kept' if is_kept else 'LOST'}",
            "kept" if limit is None else f"≤ {limit * 1000:.0f} ms, kept",
            is_kept and (limit is None or ended <= limit),
        )
    caller.call("DELETE", path)


def _is_state_kept(run: InterruptedRun) -> bool:
    return (run.state, run.exit_code) == ("preserved", 130)


def _memory(caller: Caller, server: Server, bench: Bench) -> Iterator[Row]:
    path = _create(caller, bench, "memory")
    sizes = []
    for number in range(MEMORY_RUNS):
        _run(caller, path, STEADY_RUN.format(number % 10, type=bench.any_type))
        if number % 50 == 49:
            sizes.append(_session_megabytes(server))
    growth = sizes[-1] / sizes[0]
    figure = f"{sizes[0]:.1f}, then {sizes[-1]:.1f} MB"
    label = f"   memory after 50 and after {MEMORY_RUNS} runs"
    yield Row(label, figure, "≤ 1.3 x", growth <= 1.3)
    caller.call("DELETE", path)


def _create(caller: Caller, bench: Bench, name: str) -> str:
    """Returns the path of a new session."""
    session = f"{bench.language}-{name}"
    caller.call("POST", "/api/sessions", {"language": bench.language, "session_id": session})
    return f"/api/sessions/{session}"


def _run(caller: Caller, path: str, code: str) -> str:
    """Returns what the code printed. Raises RuntimeError when it failed."""
    answer = caller.call("POST", f"{path}/run", {"code": code})
    if answer["exit_code"] != 0:
        raise RuntimeError(f"{path}: {answer}")
    return str(answer["stdout"])


def _seconds(caller: Caller, path: str, code: str) -> float:
    began = time.perf_counter()
    _run(caller, path, code)
    return time.perf_counter() - began


def main() -> int:
    """Measures these languages alone; the number of missed targets is the exit code."""
    missed = 0
    for row in rows():
        print(row, flush=True)
        missed += not row.is_reached
    return missed


if __name__ == "__main__":
    sys.exit(main())

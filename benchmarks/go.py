"""Measures Go's kernels against the go command, in turns, so that a busy host slows both alike."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import psutil

from benchmarks.api_caller import Caller
from benchmarks.table import MEGABYTE, Row, ms
from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.layout import default_toolchain_dir, find_toolchain
from tests.server_process import Server, temporary_launcher

PATH = "/api/sessions/bench-go"
ROUNDS, LONG_ROUNDS = 10, 500
HELLO = 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("hello")\n}\n'
WEB = """package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
)

func main() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"path": r.URL.Path})
	}))
	defer server.Close()
	answer, err := http.Get(server.URL + "/here")
	fmt.Println(answer.StatusCode, err)
}
"""


def rows(caller: Caller, server: Server, *, long: bool = False) -> Iterator[Row]:
    """Measures programs and fragments, idle and after many runs; `long` runs all of these."""
    listed = {one["name"]: one for one in caller.call("GET", "/api/languages")["languages"]}
    if not listed["go"]["available"]:
        yield Row("Go", listed["go"]["reason"])
        return
    caller.call("POST", "/api/sessions", {"language": "go", "session_id": "bench-go"})
    _run(caller, HELLO)
    kernel = _kernel(server)
    idle = kernel.memory_full_info().pss / MEGABYTE
    yield Row("an idle session of Go: its kernel (PSS)", f"{idle:.1f} MB", "≤ 25 MB", idle <= 25)
    for name, source, share in (("hello world", HELLO, 1.0), ("net/http", WEB, 0.8)):
        for is_new, what in ((True, "another program each time"), (False, "the same program")):
            own, plain = _compare(caller, source, is_new=is_new)
            ratio = own / plain
            figure = f"{ms(own)} = {ratio:.2f} x {ms(plain)}"
            label = f"   {name} against `go run`, {what}"
            yield Row(label, figure, f"≤ {share:g} x", ratio <= share)
            if source is HELLO and is_new:
                yield Row("      by itself", ms(own), "≤ 110 ms", own <= 0.11)
    taken = [_fragment(caller, number) for number in range(ROUNDS)]
    yield Row("   a fragment", ms(median(taken)), "≤ 180 ms", median(taken) <= 0.18)
    yield from _memory(caller, kernel, LONG_ROUNDS if long else 50)
    yield from _interpreted(caller)


def _memory(caller: Caller, kernel: psutil.Process, count: int) -> Iterator[Row]:
    before = kernel.memory_full_info().pss
    for number in range(count):
        _fragment(caller, number)
    growth = kernel.memory_full_info().pss / before - 1
    yield Row(f"   memory after {count} fragments", f"{growth:+.0%}", "≤ +30 %", growth <= 0.3)


def _interpreted(caller: Caller) -> Iterator[Row]:
    body = {"language": "go", "kernel": "gophernotes", "session_id": "bench-interpreted"}
    caller.call("POST", "/api/sessions", body)
    path = "/api/sessions/bench-interpreted/run"
    caller.call("POST", path, {"code": "x := 1"})
    taken = [_timed(caller, path, "x += 1") for _ in range(50)]
    yield Row("   a run of gophernotes", ms(median(taken)), "≤ 10 ms", median(taken) <= 0.01)


def _run(caller: Caller, code: str) -> float:
    return _timed(caller, f"{PATH}/run", code)


def _timed(caller: Caller, path: str, code: str) -> float:
    began = time.perf_counter()
    answer = caller.call("POST", path, {"code": code})
    taken = time.perf_counter() - began
    if answer["exit_code"]:
        raise RuntimeError(answer["stderr"])
    return taken


def _fragment(caller: Caller, number: int) -> float:
    return _run(caller, f'n := {number}\nnames := []string{{"a"}}\nfmt.Println(n, names)')


def _compare(caller: Caller, source: str, *, is_new: bool) -> tuple[float, float]:
    """Returns the median seconds of a run in a session, and of `go run` with a warm cache.

    Both keep the programs that they have built; with `is_new` each is another one.
    """
    toolchain = find_toolchain(builtin_dir() / "go", default_toolchain_dir(), (builtin_dir(),))
    assert toolchain is not None
    own, plain = [], []
    with tempfile.TemporaryDirectory(prefix="era-") as directory:
        env = {
            "PATH": f"{toolchain.directory / 'bin'}:{os.environ['PATH']}",
            "HOME": directory,
            "GOENV": "off",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }
        for number in range(ROUNDS + 1):
            code = f"{source}\n// {number}\n" if is_new else source
            Path(directory, "main.go").write_text(code, "utf-8")
            began = time.perf_counter()
            subprocess.run(
                ["go", "run", "main.go"],
                cwd=directory,
                env=env,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            taken = time.perf_counter() - began
            own_taken = _run(caller, code)
            if number:  # the first fills the cache
                plain.append(taken)
                own.append(own_taken)
    return median(own), median(plain)


def _kernel(server: Server) -> psutil.Process:
    """Returns the one process that serves Go."""
    folder = str(builtin_dir() / "go" / "kernel")
    family = psutil.Process(server.process.pid).children(recursive=True)
    (kernel,) = [one for one in family if folder in one.cmdline()]
    return kernel


if __name__ == "__main__":
    with temporary_launcher() as launcher:
        server_process = launcher.start()
        with closing(Caller(server_process.base_url)) as all_calls:
            for row in rows(all_calls, server_process, long="--long" in sys.argv):
                print(row, flush=True)

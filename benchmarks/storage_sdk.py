"""Measures the storage SDK: calls from code inside a session, and what the listener costs.

`python -m benchmarks.storage_sdk` prints the table. The handler keeps everything in memory: the
figures are those of the way from a session's code to a handler and back.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.table import Row, ms
from era_kernels.errors import StartError
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machines import Machines
from era_kernels.kernels.services_in_machine import ServeStorage
from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from era_kernels.web.access import Access
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.storage_listener import StorageListener
from tests.sdk_host import execute, open_sdk_host, run
from tests.storage_fakes import Memory, memory_routes

CALLS = 1000
STARTS = 40
PROGRAM = f"""
import json, time
begin = time.perf_counter()
from era_storage import kv
taken = dict(imported=time.perf_counter() - begin)
def measure(call):
    seconds = []
    for _ in range({CALLS}):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    seconds.sort()
    return seconds[len(seconds) // 2], seconds[len(seconds) * 95 // 100]
taken["set"] = measure(lambda: kv.set("app", "k", "x" * 100))
taken["get"] = measure(lambda: kv.get("app", "k"))
print(json.dumps(taken))
"""
NODE_PROGRAM = f"""
let begin = performance.now();
const {{ kv }} = require("era_storage");
const taken = {{ imported: (performance.now() - begin) / 1000 }};
async function measure(call) {{
    const seconds = [];
    for (let number = 0; number < {CALLS}; number++) {{
        begin = performance.now();
        await call();
        seconds.push((performance.now() - begin) / 1000);
    }}
    seconds.sort((a, b) => a - b);
    return [seconds[seconds.length >> 1], seconds[Math.floor(seconds.length * 0.95)]];
}}
taken.set = await measure(() => kv.set("app", "k", "x".repeat(100)));
taken.get = await measure(() => kv.get("app", "k"));
console.log(JSON.stringify(taken));
"""
DENO_PROGRAM = NODE_PROGRAM.replace('require("era_storage")', 'await import("era_storage")')
GO_PROGRAM = f"""
package main

import (
	"encoding/json"
	"era/storage"
	"fmt"
	"slices"
	"strings"
	"time"
)

func measure(call func() error) []float64 {{
	seconds := []float64{{}}
	for range {CALLS} {{
		begin := time.Now()
		if err := call(); err != nil {{
			panic(err)
		}}
		seconds = append(seconds, time.Since(begin).Seconds())
	}}
	slices.Sort(seconds)
	return []float64{{seconds[len(seconds)/2], seconds[len(seconds)*95/100]}}
}}

func main() {{
	value := strings.Repeat("x", 100)
	set := measure(func() error {{ return storage.KV.Set("app", "k", value) }})
	get := measure(func() error {{ _, _, err := storage.KV.Get("app", "k"); return err }})
	text, _ := json.Marshal(map[string]any{{"imported": 0, "set": set, "get": get}})
	fmt.Println(string(text))
}}
"""
# By language: what is run, and the seconds that half of the calls may take.
PROGRAMS = {
    "python": (PROGRAM, 0.002),
    "node": (NODE_PROGRAM, 0.003),
    "typescript": (NODE_PROGRAM, 0.003),
    "deno": (DENO_PROGRAM, 0.003),
    "go": (GO_PROGRAM, 0.003),
}


def rows() -> Iterator[Row]:
    """Measures each tier that this host has, and the start of sandboxes."""
    for tier, language in product((1, 3), PROGRAMS):
        try:
            taken = asyncio.run(_measure_calls(tier, language))
        except StartError:
            continue
        if taken is None:
            continue
        bound = PROGRAMS[language][1]
        yield Row(f"{language}: load era_storage, tier {tier}", ms(taken["imported"]))
        for name in ("set", "get"):
            half, most = taken[name]
            label = f"{language}: kv.{name} of 100 bytes, tier {tier}: p50, p95"
            target = f"p50 ≤ {bound * 1e3:.0f} ms"
            yield Row(label, f"{ms(half)}, {ms(most)}", target, half <= bound)
    without, with_listener = asyncio.run(_measure_starts())
    yield Row("a sandbox without the listener", ms(without))
    difference = with_listener - without
    yield Row("   more with it", f"{difference * 1e6:.0f} µs", "≤ 1 ms", difference <= 0.001)


async def _measure_calls(tier: int, language: str) -> dict[str, Any] | None:
    """Returns seconds; None where the language is not installed."""
    async with open_sdk_host(tier) as host:
        if not host.kernels.languages.resolve(language).default.is_available:
            return None
        machine = await host.open(language)
        if language == "python":  # compiled, and cached
            await execute(machine, sys.executable, "-c", "import era_storage")
        taken: dict[str, Any] = json.loads(await run(machine, PROGRAMS[language][0]))
        return taken


async def _measure_starts() -> tuple[float, float]:
    """Opens sandboxes without kernels, with and without the listener in turn."""
    languages = Languages.load()
    listener = StorageListener(memory_routes(Memory()), HandlerContext(Access(), 1 << 20))
    with tempfile.TemporaryDirectory(prefix="era-", dir="/tmp") as directory:
        base = Path(directory)
        policy = IsolationPolicy(
            strongest_tier=1, weakest_tier=4, readable_paths=languages.readable_paths
        )
        sandboxes = await Sandboxes.open(
            base / "r", languages.preload, languages.entry_paths, policy, spare_count=1
        )
        kinds: tuple[ServeStorage | None, ...] = (None, listener.attach)
        hosts = [Machines(languages, sandboxes, serve) for serve in kinds]
        taken: list[list[float]] = [[], []]
        for number in range(STARTS):
            for which in (0, 1):
                parts = [base / f"{number}-{which}" / name for name in ("w", "p", "c")]
                for part in parts:
                    part.mkdir(parents=True)
                await asyncio.sleep(0.1)  # a spare init is ready
                began = time.perf_counter()
                paths = SessionPaths(*parts)
                machine = await hosts[which].open("python", paths, Limits(), {}, kernel=False)
                taken[which].append(time.perf_counter() - began)
                await machine.aclose()
        await sandboxes.aclose()
        await listener.aclose()
    return median(taken[0]), median(taken[1])


if __name__ == "__main__":
    print(*rows(), sep="\n")

"""Compares kernels by tcp with the same by unix sockets, and measures `connect` of a sandbox."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks.table import Row, ms
from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import KernelRequest, Limits, SessionPaths
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy

Transport = Literal["ipc", "tcp"]
TRANSPORTS: tuple[Transport, ...] = ("ipc", "tcp")
# Started by exec, as a kernel is that speaks nothing but tcp.
ARGV = ("python", str(builtin_dir() / "python"), "{connection_file}")
STARTS, RUNS, CONNECTIONS = 10, 200, 500
LISTEN = """
import os, socket
end = socket.create_server(("127.0.0.1", 0), backlog=1024)
os.write(1, b"%d\\n" % end.getsockname()[1])
while True:
    end.accept()[0].close()
"""


@dataclass(frozen=True)
class TransportCost:
    """The medians in seconds: a kernel's start to its first reply, and a run of `pass`."""

    start_seconds: float
    run_seconds: float


def rows() -> Iterator[Row]:
    """Measures both transports alternately, in the strongest tier: a busy host slows both alike."""
    connect_seconds, hundred_seconds, costs = asyncio.run(_measure())
    yield Row("connect to a port of a session, median", ms(connect_seconds))
    yield Row("   100 at once", ms(hundred_seconds), "≤ 250 ms", hundred_seconds <= 0.25)
    ipc, tcp = costs["ipc"], costs["tcp"]
    figure = f"{ms(tcp.start_seconds)}, ipc {ms(ipc.start_seconds)}"
    yield Row(
        "kernel by exec to its first reply, tcp",
        figure,
        "≤ 1.2 x ipc",
        tcp.start_seconds <= 1.2 * ipc.start_seconds,
    )
    figure = f"{ms(tcp.run_seconds)}, ipc {ms(ipc.run_seconds)}"
    is_reached = tcp.run_seconds <= 1.3 * ipc.run_seconds
    yield Row("   run of `pass`", figure, "≤ 1.3 x ipc", is_reached)


async def _measure() -> tuple[float, float, dict[Transport, TransportCost]]:
    async with AsyncExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="era-")))
        for transport in TRANSPORTS:
            _write_kernelspec(base / "specs" / transport, transport)
        languages = Languages.load([base / "specs"])
        policy = IsolationPolicy(weakest_tier=2, readable_paths=languages.readable_paths)
        sandboxes = await Sandboxes.open(base / "r", (), (), policy, spare_count=1)
        stack.push_async_callback(sandboxes.aclose)
        sandbox = await sandboxes.open_sandbox(_make_paths(base / "listener"), Limits())
        connect_seconds, hundred_seconds = await _connect_costs(sandbox)
        await sandbox.aclose()
        host = Machines(languages, sandboxes)
        stack.push_async_callback(host.aclose)
        starts: dict[Transport, list[float]] = {"ipc": [], "tcp": []}
        for number in range(STARTS):
            for transport, taken in starts.items():
                began = time.perf_counter()
                machine = await _ready_machine(host, transport, base / f"{transport}-{number}")
                taken.append(time.perf_counter() - began)
                await machine.aclose()
        machines = {one: await _ready_machine(host, one, base / f"{one}-runs") for one in starts}
        runs: dict[Transport, list[float]] = {"ipc": [], "tcp": []}
        for _ in range(RUNS):
            for transport, taken in runs.items():
                taken.append(await _run_seconds(machines[transport]))
        costs = {one: TransportCost(median(starts[one]), median(runs[one])) for one in starts}
        return connect_seconds, hundred_seconds, costs


async def _connect_costs(sandbox: Sandbox) -> tuple[float, float]:
    """Returns the median of one connection after another, and the time of a hundred at once."""
    command = ProcessSpec(argv=(sys.executable, "-c", LISTEN), env={}, cwd="/tmp")
    process = await sandbox.spawn(command)
    port = int(await anext(aiter(process.stdout)))
    taken = []
    for _ in range(CONNECTIONS):
        began = time.perf_counter()
        with closing(await sandbox.connect(port)):
            taken.append(time.perf_counter() - began)
    began = time.perf_counter()
    for one in await asyncio.gather(*(sandbox.connect(port) for _ in range(100))):
        one.close()
    return median(taken), time.perf_counter() - began


def _write_kernelspec(folder: Path, transport: Transport) -> None:
    folder.mkdir(parents=True)
    metadata = {"era_kernels": {"transport": transport}}
    kernel_json = {"argv": ARGV, "display_name": transport, "language": transport}
    (folder / "kernel.json").write_text(json.dumps({**kernel_json, "metadata": metadata}))


def _make_paths(directory: Path) -> SessionPaths:
    parts = [directory / name for name in ("workspace", "packages", "cache")]
    for part in parts:
        part.mkdir(parents=True)
    return SessionPaths(*parts)


async def _ready_machine(host: Machines, language: str, directory: Path) -> Machine:
    machine = await host.open(language, _make_paths(directory), Limits(), {})
    await _run_seconds(machine)
    return machine


async def _run_seconds(machine: Machine) -> float:
    began = time.perf_counter()
    async for _ in machine.kernel.execute(KernelRequest("pass", {}, 30, 1)):
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)

"""Measures what sandboxes cost: the start of kernels, and memory of an idle session."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import KernelRequest, Limits, SessionPaths
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy

LANGUAGE = "python"
UNSANDBOXED_TIER = 4


@dataclass(frozen=True)
class IsolationCost:
    """The seconds to the first reply of one kernel and of twenty at once; the PSS in bytes."""

    tier: int
    start_seconds: float
    twenty_seconds: float
    memory_bytes: float


async def measure_costs(rounds: int) -> tuple[IsolationCost, IsolationCost]:
    """Measures no sandbox and the strongest alternately: a busy host slows both alike."""
    async with _host(UNSANDBOXED_TIER) as unsandboxed, _host(1) as sandboxed:
        starts: list[list[float]] = [[], []]
        for number in range(rounds):
            for (host, _, base), taken in zip((unsandboxed, sandboxed), starts, strict=True):
                taken.append(await _start_seconds(host, base / f"s{number}"))
        return (await _cost(unsandboxed, starts[0]), await _cost(sandboxed, starts[1]))


async def _cost(
    opened_host: tuple[Machines, Sandboxes, Path], starts: list[float]
) -> IsolationCost:
    host, sandboxes, base = opened_host
    began = time.perf_counter()
    machines = await asyncio.gather(*(_ready_machine(host, base / f"c{n}") for n in range(20)))
    crowd = time.perf_counter() - began
    memory = _family_pss(sandboxes.zygote.pid) / len(machines)
    await asyncio.gather(*(machine.aclose() for machine in machines))
    return IsolationCost(sandboxes.isolation.tier, median(starts), crowd, memory)


@asynccontextmanager
async def _host(strongest_tier: int) -> AsyncIterator[tuple[Machines, Sandboxes, Path]]:
    languages = Languages.load()
    with tempfile.TemporaryDirectory(prefix="era-") as directory:
        base = Path(directory)
        policy = IsolationPolicy(
            strongest_tier=strongest_tier,
            weakest_tier=UNSANDBOXED_TIER,
            readable_paths=languages.readable_paths,
        )
        sandboxes = await Sandboxes.open(
            base / "r", languages.preload, languages.entry_paths, policy, spare_count=1
        )
        host = Machines(languages, sandboxes)
        try:
            yield host, sandboxes, base
        finally:
            await host.aclose()
            await sandboxes.aclose()


async def _start_seconds(host: Machines, directory: Path) -> float:
    began = time.perf_counter()
    machine = await _ready_machine(host, directory)
    taken = time.perf_counter() - began
    await machine.aclose()
    return taken


async def _ready_machine(host: Machines, directory: Path) -> Machine:
    """Returns a machine whose kernel has answered its first run."""
    parts = [directory / name for name in ("workspace", "packages", "cache")]
    for part in parts:
        part.mkdir(parents=True)
    machine = await host.open(LANGUAGE, SessionPaths(*parts), Limits(), {})
    async for _ in machine.kernel.execute(KernelRequest("pass", {}, 30, 1)):
        pass
    return machine


def _family_pss(zygote: int) -> int:
    """Returns the PSS of all processes that a zygote started."""
    total, waiting = 0, _children(zygote)
    while waiting:
        pid = waiting.pop()
        waiting += _children(pid)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

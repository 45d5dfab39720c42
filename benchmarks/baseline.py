"""Measures the limit: a bare `AsyncKernelClient` that talks to the kernel over ipc."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

from jupyter_client import AsyncKernelManager
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec

from era_kernels.kernels.kernelspecs import builtin_dir

STOCK_ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def own_argv(language: str) -> list[str]:
    """Returns the command of our own kernelspec, as Jupyter would start it."""
    folder = builtin_dir() / language
    spec = KernelSpec.from_resource_dir(str(folder))
    values = {"{python}": sys.executable, "{resource_dir}": str(folder)}
    return [_filled(part, values) for part in spec.argv]


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


@asynccontextmanager
async def bare_kernel(argv: list[str]) -> AsyncIterator[AsyncKernelClient]:
    """Starts a kernel by jupyter_client and connects a client."""
    with tempfile.TemporaryDirectory(prefix="era-bench-") as directory:
        manager = AsyncKernelManager(
            transport="ipc",
            ip=f"{directory}/k",
            connection_file=f"{directory}/kernel.json",
        )
        manager._kernel_spec = KernelSpec(argv=argv, display_name="bench", language="bench")
        await manager.start_kernel(cwd=directory)
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)
            yield client
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)


async def round_trip(client: AsyncKernelClient, code: str) -> float:
    """Returns the seconds from the request until its reply and the idle status arrived."""
    began = time.perf_counter()
    await client.execute_interactive(code, store_history=False, output_hook=_ignore)
    return time.perf_counter() - began


async def pass_median(argv: list[str], count: int) -> float:
    """Returns the median seconds of a run of `pass`."""
    async with bare_kernel(argv) as client:
        for _ in range(20):
            await round_trip(client, "pass")
        return median([await round_trip(client, "pass") for _ in range(count)])


async def output_seconds(argv: list[str], code: str) -> float:
    """Returns the seconds until all output of the code arrived."""
    async with bare_kernel(argv) as client:
        await round_trip(client, "pass")
        return await round_trip(client, code)


def _ignore(message: object) -> None:
    """Drops output."""

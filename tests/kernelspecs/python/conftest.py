"""The kernels that the tests of the kernel's own code run."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import Limits
from tests.kernels.conftest import host, io_loop, machine, make_paths
from tests.languages.jupyter_checks import JupyterKernel, open_kernel

__all__ = ["host", "io_loop", "jupyter_kernel", "kernel", "machine"]


@asynccontextmanager
async def open_machine(host: Machines) -> AsyncIterator[Machine]:
    """Opens a machine of its own, in a folder of which nothing is left afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        machine = await host.open("python", make_paths(Path(directory)), Limits(), {})
        try:
            yield machine
        finally:
            await machine.aclose()


@pytest.fixture
def jupyter_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JupyterKernel]:
    """The kernel, started by jupyter_client as its kernelspec says, in an empty folder."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with open_kernel(builtin_dir() / "python", tmp_path, "ipc") as kernel:
        monkeypatch.chdir(tmp_path / "home")
        yield kernel


@pytest.fixture
def kernel(jupyter_kernel: JupyterKernel) -> BlockingKernelClient:
    """A client of that kernel."""
    return jupyter_kernel.client

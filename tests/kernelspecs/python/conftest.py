"""The kernels that the tests of the kernel's own code run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.kernels.conftest import host, io_loop, machine
from tests.languages.jupyter_checks import JupyterKernel, open_kernel

__all__ = ["host", "io_loop", "jupyter_kernel", "kernel", "machine"]


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

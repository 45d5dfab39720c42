"""The kernels that the tests of the kernel's own code run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from era_kernels.kernels.languages import builtin_dir
from tests.kernels.conftest import host, io_loop, machine

__all__ = ["host", "io_loop", "kernel", "machine"]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingKernelClient]:
    """A client of the kernel, started by jupyter_client as its kernelspec says."""
    # Under another name: `python` is ipykernel's own to jupyter_client.
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "era").symlink_to(builtin_dir() / "python")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "specs")], ensure_native_kernel=False)
    manager = KernelManager(kernel_name="era", kernel_spec_manager=specs, transport="ipc")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.context.destroy(0)

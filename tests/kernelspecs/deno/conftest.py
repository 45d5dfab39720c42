"""The kernel that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernelspecs.deno.toolchain import jupyter_kernelspec
from tests.languages.jupyter_checks import JupyterKernel, open_kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterKernel]:
    """One kernel for the module: each test must leave it usable."""
    directory = tmp_path_factory.mktemp("kernel")
    with open_kernel(jupyter_kernelspec(directory), directory, "ipc") as kernel:
        yield kernel

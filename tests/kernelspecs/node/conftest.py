"""Kernels that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernelspecs.node.toolchain import LANGUAGES, jupyter_kernelspec
from tests.languages.jupyter_checks import JupyterKernel, open_kernel


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def kernel(language: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterKernel]:
    """One kernel of each language for the module: each test must leave it usable."""
    directory = tmp_path_factory.mktemp("kernel")
    with open_kernel(jupyter_kernelspec(language, directory), directory, "ipc") as kernel:
        yield kernel

"""The kernels that tests of languages add to their servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.languages.conformance import added_kernels
from tests.languages.programs import ALL_PROGRAMS


@pytest.fixture(scope="session")
def kernelspec_dirs() -> Iterator[list[Path]]:
    """Directories with the kernels of the table that do not come with the package."""
    with added_kernels(ALL_PROGRAMS) as directories:
        yield directories

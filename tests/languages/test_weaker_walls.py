"""Kernels that are added to the server need no namespaces: their rows hold in tier 3, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.languages.conformance import cases, open_client, try_row
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows.table_rows import Row

ADDED = [programs for programs in ALL_PROGRAMS if programs.add_to is not None]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server that has all kernels, and no namespaces."""
    with open_client("--strongest-tier", "3") as client:
        assert client.http.get("/health").json()["isolation"]["tier"] == 3
        yield client


@pytest.mark.parametrize(("programs", "row"), cases(ADDED))
def test_row(client: Client, programs: KernelPrograms, row: Row) -> None:
    """A row of the table holds for a kernel that claims it."""
    try_row(client, programs, row)

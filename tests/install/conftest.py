"""A place for installations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.install.places import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Kernelspecs, wheels and toolchains of a test."""
    return Place(tmp_path)

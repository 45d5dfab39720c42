"""Starts servers whose data directory is a small disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server_process import Launcher
from tests.storage.stores import small_disk


@contextmanager
def launcher_on_disk(path: Path, size: str) -> Iterator[Launcher]:
    """Makes a launcher on a disk of that size, and ends its servers before the disk goes."""
    with small_disk(path, size) as disk:
        launcher = Launcher(disk)
        try:
            yield launcher
        finally:
            launcher.stop_all()

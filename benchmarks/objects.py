"""Measures objects of R2 up and down beside a bare handler, and the server's memory meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks import files
from benchmarks.table import Row
from tests.server_process import Server, temporary_launcher

PATH = "/api/storage/r2/bench/object"
HEADERS = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
MAX_GROWTH = 30  # MB


def rows(server: Server, megabytes: list[int]) -> Iterator[Row]:
    """Yields the rows of one object of so many MB at a time."""
    with files.bare_server() as peer:
        for size in megabytes:
            yield from files.transfer_rows(
                server, peer, files.Transfer("R2, ", PATH, size, MAX_GROWTH, HEADERS)
            )


if __name__ == "__main__":
    with temporary_launcher() as launcher:
        for row in rows(launcher.start(), [int(size) for size in sys.argv[1:]] or [1024]):
            print(row, flush=True)

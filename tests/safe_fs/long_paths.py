"""Makes directories with long paths, and measures what memory is taken at once."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable

NAME = "d" * 250 + "😀"  # of which each character takes four bytes in memory
LEVELS = 15  # the longest path that can be opened has 4095 bytes


def make_many_below_long_path(root: int, count: int) -> None:
    """Makes so many empty directories in one whose path is nearly as long as one may be."""
    here = os.dup(root)
    for _ in range(LEVELS):
        os.mkdir(NAME, dir_fd=here)
        below = os.open(NAME, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    for number in range(count):
        os.mkdir(str(number), dir_fd=here)
    os.close(here)


def traced_peak(work: Callable[[], object]) -> int:
    """Returns the bytes that work takes at most while it runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

"""Limits how many sessions may have a kernel at once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from era_kernels.errors import AtCapacity

RETRY_AFTER_SECONDS = 5  # seconds that a caller is asked to wait for a free kernel or session


class KernelLimiter:
    """Limits how many sessions have a kernel, or are about to have one.

    A session may acquire several times, and is counted once, until it has released as often.
    `max_programs` bounds what all sessions acquire together beyond one each: programs beside runs.
    """

    def __init__(self, max_kernels: int, max_programs: int = sys.maxsize) -> None:
        self._max_kernels = max_kernels
        self._max_programs = max_programs
        self._holders: Counter[Hashable] = Counter()

    @property
    def holder_count(self) -> int:
        return len(self._holders)

    def acquire(self, holder: Hashable) -> None:
        """Counts the holder, which may have acquired before.

        Raises AtCapacity when `max_kernels` others are counted already, or `max_programs` run.
        """
        more = self._holders.total() - len(self._holders)
        if holder in self._holders and more >= self._max_programs:
            raise AtCapacity(
                f"All {self._max_programs} programs that may run beside kernels do so.",
                hint="Wait until one has ended, or raise the number of open files (ulimit -n).",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if holder not in self._holders and len(self._holders) >= self._max_kernels:
            raise AtCapacity(
                f"No kernel is free: max_kernels is {self._max_kernels}.",
                hint="A session keeps its kernel while it is idle: delete one that is not needed, "
                "or raise max_kernels.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._holders[holder] += 1

    def release(self, holder: Hashable) -> None:
        """Undoes one `acquire`."""
        self._holders[holder] -= 1
        if not self._holders[holder]:
            del self._holders[holder]

    @contextmanager
    def reserved(self, holder: Hashable) -> Iterator[None]:
        """Acquires, and releases when the context ends. Raises AtCapacity as `acquire` does."""
        self.acquire(holder)
        try:
            yield
        finally:
            self.release(holder)

"""Bounds the memory of what was submitted and has not ended: the runs of a queue may be large."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable

from era_kernels.errors import AtCapacity, QueueFull
from era_kernels.models import ExecSubmission, Submission, format_size
from era_kernels.services.kernel_limiter import RETRY_AFTER_SECONDS

MAX_BYTES = 512 * 1024 * 1024
SMALL_BYTES = 64 * 1024  # bytes of a submission that is always taken: queues are short
SESSION_SHARE = 2  # one session holds at most the bound divided by this


def memory_size(submission: Submission | ExecSubmission) -> int:
    """Returns the bytes that the texts of a submission take in memory.

    A text with one character beyond U+FFFF takes four bytes for each of its characters.
    """
    texts = [submission.code, *submission.env.values()]
    if isinstance(submission, ExecSubmission):
        texts += [*submission.argv, submission.stdin or ""]
    else:
        texts += submission.files.values()
    return sum(map(sys.getsizeof, texts))


class SubmissionMemory:
    """Counts the bytes of submissions by session, from their submission to their end.

    Small ones are counted and never refused. Of the large ones a session may have one in any case
    while others hold little, and all of them share one bound.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held: Counter[Hashable] = Counter()

    @property
    def total(self) -> int:
        """The bytes of all submissions that have not ended."""
        return self._held.total()

    def acquire(self, holder: Hashable, size: int) -> None:
        """Counts a submission of a session.

        Raises QueueFull where the session's own submissions hold too much, AtCapacity where those
        of all sessions do.
        """
        own, total = self._held[holder], self.total
        if size > SMALL_BYTES and own and own + size > self._max_bytes // SESSION_SHARE:
            raise QueueFull(
                f"The runs of this session that have not ended hold {format_size(own)} of memory.",
                hint="Wait until one has ended, or put large data into files.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if size > SMALL_BYTES and total and total + size > self._max_bytes:
            raise AtCapacity(
                f"The runs that have not ended hold {format_size(total)} of the server's memory.",
                hint="Try again later, put large data into files, or raise memory_in_work.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self._held[holder] += size

    def release(self, holder: Hashable, size: int) -> None:
        """Undoes one `acquire` of that size."""
        self._held[holder] -= size
        if not self._held[holder]:
            del self._held[holder]

"""Bounds the memory of messages that have not arrived completely, for all kernels together.

One message may be large, and a kernel that sends most of it and then stops would keep that much
memory of the server, for each session of its user.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_TOTAL_BYTES = 512 * 1024 * 1024  # bytes of all kernels
UNCOUNTED_BYTES = 1024 * 1024  # bytes; a message of at most this size does not count

OnEvict = Callable[[], None]


class ReceiveBudget:
    """Counts the bytes of incomplete messages by owner, the oldest first.

    Where they exceed `max_bytes` the oldest is evicted: an honest message of any size is complete
    within a second or so.
    """

    def __init__(self, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: dict[object, tuple[int, OnEvict]] = {}
        self._total_bytes = 0

    def update(self, owner: object, size: int, on_evict: OnEvict) -> None:
        """Sets how many bytes of one message are there; `on_evict` ends the wait for the rest."""
        if size <= UNCOUNTED_BYTES:
            return
        old_size, _ = self._entries.get(owner, (0, on_evict))
        self._entries[owner] = size, on_evict
        self._total_bytes += size - old_size
        while self._total_bytes > self._max_bytes:
            oldest = next(iter(self._entries))
            _, evict_oldest = self._entries[oldest]
            self.release(oldest)
            evict_oldest()

    def release(self, owner: object) -> None:
        """Stops counting the owner's message; does nothing when none is counted."""
        size, _ = self._entries.pop(owner, (0, None))
        self._total_bytes -= size

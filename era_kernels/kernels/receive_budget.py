"""What kernels have sent of messages that are not whole yet: bounded for all of them together.

One message may be large, and whoever sends most of it and then stops would keep that much memory
of the server, for each of its sessions.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_TOTAL_BYTES = 512 * 1024 * 1024  # bytes of all kernels
UNCOUNTED_BYTES = 1024 * 1024  # bytes that do not count

OnEvict = Callable[[], None]


class ReceiveBudget:
    """Beginnings of messages, by who holds them, the oldest first.

    Where they take too much the oldest is given up: an honest message of any size is whole within
    a second or so.
    """

    def __init__(self, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: dict[object, tuple[int, OnEvict]] = {}
        self._total_bytes = 0

    def update(self, owner: object, size: int, on_evict: OnEvict) -> None:
        """So much is there now of one message; `on_evict` ends the wait for the rest."""
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
        """The message is whole, or nobody waits for it any more; nothing where none is held."""
        size, _ = self._entries.pop(owner, (0, None))
        self._total_bytes -= size

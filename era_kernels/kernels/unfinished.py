"""What kernels have sent of messages that are not whole yet: bounded for all of them together.

One message may be large, and whoever sends most of it and then stops would keep that much memory
of the server, for each of its sessions.
"""

from __future__ import annotations

from collections.abc import Callable

MOST = 512 * 1024 * 1024  # bytes of all kernels
SMALL = 1024 * 1024  # bytes that do not count

GiveUp = Callable[[], None]


class Unfinished:
    """Beginnings of messages, by who holds them, the oldest first.

    Where they take too much the oldest is given up: an honest message of any size is whole within
    a second or so.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._held: dict[object, tuple[int, GiveUp]] = {}
        self._total = 0

    def hold(self, holder: object, size: int, give_up: GiveUp) -> None:
        """So much is there now of one message; `give_up` ends the wait for the rest."""
        if size <= SMALL:
            return
        before, _ = self._held.get(holder, (0, give_up))
        self._held[holder] = size, give_up
        self._total += size - before
        while self._total > self._most:
            oldest = next(iter(self._held))
            _, end = self._held[oldest]
            self.release(oldest)
            end()

    def release(self, holder: object) -> None:
        """The message is whole, or nobody waits for it any more; nothing where none is held."""
        size, _ = self._held.pop(holder, (0, None))
        self._total -= size

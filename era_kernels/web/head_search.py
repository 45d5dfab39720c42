"""Finds the end of a request's head, however slowly it comes, in time that goes with its length.

Tornado 6 searches all that has come for it, twice at each read: a few dozen clients, each of which
sent a long head byte by byte, would keep everybody else waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable

from tornado.iostream import IOStream

_LONGEST_END = 4  # bytes that a head ends with


class HeadIOStream(IOStream):
    """A connection of which each byte of a head is searched once."""

    _searched = 0  # bytes of the buffer in which no head ends

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Returns the head of the next request, for which Tornado calls this and nothing else."""
        self._searched = 0
        return super().read_until_regex(regex, max_bytes)

    def _find_read_pos(self) -> int | None:
        if self._read_regex is None:
            return super()._find_read_pos()
        start = max(0, self._searched - _LONGEST_END + 1)
        if self._read_regex.search(self._read_buffer, start) is not None:
            return super()._find_read_pos()
        self._searched = len(self._read_buffer)
        self._check_max_bytes(self._read_regex, self._searched)
        return None

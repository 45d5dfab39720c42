"""Reads bodies of many small chunks in turns.

Each chunk costs the loop some dozen microseconds, however few bytes it has, and all chunks that
have come are there at once: those of a few dozen connections would keep everybody else waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from tornado.iostream import StreamClosedError

from era_kernels.concurrency.turns import Turns
from era_kernels.web.head_search import HeadIOStream

CHUNKS_AT_ONCE = 32  # chunks of one body that are read before others have their turn
SMALL_CHUNK = 1024  # bytes; a body whose chunks have more on average takes no turns


class ChunkedIOStream(HeadIOStream):
    """A connection whose chunked bodies are read in turns, where their chunks are small."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chunk_turns: Turns | None = None  # None: of this connection alone
        self._chunks = 0  # of a body since the last look
        self._received = 0  # bytes since the last look

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Reads from the socket what is there, and counts it."""
        count = super().read_from_fd(buf)
        self._received += count or 0
        return count

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Returns the line before a chunk, for which Tornado calls this and nothing else."""
        self._chunks += 1
        if self._chunks < CHUNKS_AT_ONCE:
            return super().read_until(delimiter, max_bytes)
        is_small = self._received < self._chunks * SMALL_CHUNK
        self._chunks = self._received = 0
        if not is_small or self.chunk_turns is None:
            return super().read_until(delimiter, max_bytes)
        return self._read_in_turn(self.chunk_turns, delimiter, max_bytes)

    async def _read_in_turn(self, turns: Turns, delimiter: bytes, max_bytes: int | None) -> bytes:
        turn = turns.take(is_alone=False)
        if turn is not None:
            await turn
        if self.closed():  # the rest of what has come would still be given out, in turns
            raise StreamClosedError(self.error)
        return await super().read_until(delimiter, max_bytes)

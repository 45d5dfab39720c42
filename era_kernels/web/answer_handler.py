"""Answers in JSON: the headers that all answers have, warnings, and the shape of errors.

A large answer waits until there is memory for it, and is sent as fast as the client reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from era_kernels import json_codec
from era_kernels.errors import EraError
from era_kernels.models import JsonObject
from era_kernels.web import answer_memory, headers, unknown_fields
from era_kernels.web.client_handler import ClientDisconnected, ClientHandler
from era_kernels.web.connection_limit import client_of

if TYPE_CHECKING:
    from era_kernels.web.context import HandlerContext

SERVER = "era-kernels"
WARNINGS_HEADER = "X-Warnings"
_JSON_TYPE = "application/json"
_END = b"}\n"
_MAX_COPIED = 64 * 1024  # bytes of an answer that are copied sooner than written in two parts
_DEFAULT_HEADERS = {
    "Server": SERVER,
    "Content-Type": f"{_JSON_TYPE}; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class AnswerHandler(ClientHandler):
    """Writes answers; what a request held that nobody knows is named in each of them."""

    context: HandlerContext
    # False where the object is of a form of its own: then only the header holds warnings.
    shows_warnings_in_body: ClassVar[bool] = True

    def _begin_answer(self, context: HandlerContext) -> None:
        self.context = context
        self._begin_watching()
        self._memory_share = context.answer_memory.open(self.abort_connection)
        self._sticky_headers: dict[str, str] = {}
        self._warnings: list[str] = []
        self.logged_path = self.request.path
        self.request_id = headers.request_id(self.request.headers)
        self.set_sticky_header("X-Request-Id", self.request_id)

    def set_default_headers(self) -> None:
        self._headers.update(_DEFAULT_HEADERS)  # `set_header` would check these each time
        for name, value in getattr(self, "_sticky_headers", {}).items():
            self.set_header(name, value)

    def set_sticky_header(self, name: str, value: str) -> None:
        """Sets a header that the answer keeps also when the request fails later."""
        self._sticky_headers[name] = value
        self.set_header(name, value)

    def compute_etag(self) -> None:
        """Sets no ETag: answers are not cached, and hashing each would cost more than it saves."""

    def warn(self, texts: Iterable[str]) -> None:
        """Adds warnings to the answer, whatever it will be; there is room for a few only."""
        room = unknown_fields.MAX_WARNINGS - len(self._warnings)
        self._warnings.extend(islice(texts, room))
        if self._warnings:
            self.set_sticky_header(WARNINGS_HEADER, unknown_fields.to_header(self._warnings))

    def json_end(self) -> bytes:
        """Returns what ends the object of an answer, which is not empty: `}` and a newline."""
        if not self._warnings or not self.shows_warnings_in_body:
            return _END
        return b"," + json_codec.dumps({"warnings": self._warnings})[1:] + b"\n"

    async def finish_json(
        self, value: Mapping[str, Any], status: int = 200, *, size: int = 0
    ) -> None:
        """Finishes with a JSON object; `size` is about how many bytes the JSON will take.

        Raises ClientDisconnected.
        """
        await self.wait_for_memory(size)
        pieces = await json_codec.dump_pieces(value, size)
        del value
        self.set_status(status)
        await self._finish_in_pieces(pieces)

    async def finish_encoded(self, data: bytes) -> None:
        """Finishes with a JSON object that is encoded. Raises ClientDisconnected."""
        await self.wait_for_memory(len(data))
        await self._finish_in_pieces([data])

    async def wait_for_memory(self, size: int) -> None:
        """Waits until there is memory for an answer of about `size` bytes, if that is large.

        Who knows the size before the answer is there calls this first. Raises ClientDisconnected.
        """
        if size > answer_memory.LARGE_BYTES:
            await self.while_connected(self._memory_share.take(size, self._owner()))

    async def _finish_in_pieces(self, pieces: list[bytes]) -> None:
        *first, last = pieces
        if not self._memory_share.size or self.request.method == "HEAD":
            for piece in first:  # Tornado joins them, which is the only copy
                self.write(piece)
            self.finish(last)
            return
        self._warn_at_last()
        pieces[-1:] = last[:-1], self.json_end()
        await self._send_pieces(pieces)

    async def finish_bytes(self, body: bytes) -> None:
        """Finishes with bytes of a type that is set, when there is memory for them.

        Raises ClientDisconnected.
        """
        await self.wait_for_memory(len(body))
        if not self._memory_share.size or self.request.method == "HEAD":
            self.finish(body)
        else:
            await self._send_pieces([body])

    async def _send_pieces(self, pieces: list[bytes]) -> None:
        self.set_header("Content-Length", sum(map(len, pieces)))
        self._memory_share.begin_sending()
        with suppress(ClientDisconnected):
            for data in answer_memory.in_slices(pieces):
                await self.send(data)
                self._memory_share.sent(len(data))

    def _owner(self) -> object:
        """Returns in whose name the answer takes memory: the session's, where one is known."""
        return client_of(self.request).owner or self.request.path.split("/", 4)[:4][-1]

    def _warn_at_last(self) -> None:
        """Adds warnings that only the end of a request shows; here there are none."""

    def finish(self, chunk: str | bytes | JsonObject | None = None) -> asyncio.Future[None]:
        """Finishes with a whole body; that of a JSON object gets its warnings and a newline."""
        if not self._headers_written:
            self._warn_at_last()
        is_json = self._headers.get("Content-Type", "").startswith(_JSON_TYPE)
        if is_json and isinstance(chunk, bytes) and chunk.endswith(b"}"):
            end = self.json_end()
            if len(chunk) <= _MAX_COPIED:
                return super().finish(chunk[:-1] + end)
            self.write(chunk if end == _END else chunk[:-1])
            chunk = end[1:] if end == _END else end
        return super().finish(chunk)


def error_response(error: EraError) -> JsonObject:
    """Returns an error as JSON: `error`, `message`, `code`, and what else is set."""
    out: JsonObject = {
        "error": error.title,
        "message": error.message,
        "code": error.code,
    }
    for name in ("details", "hint", "id", "format"):
        value: Any = getattr(error, name)
        if value is not None:
            out[name] = value
    return out


def encode_error(error: EraError) -> bytes:
    """Returns the whole body of an error that no handler answers."""
    return json_codec.dumps(error_response(error)) + b"\n"

"""Answers in JSON: the headers that all answers have, warnings, and the shape of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, ClassVar

from tornado.web import RequestHandler

from era_kernels import json_codec
from era_kernels.errors import EraError
from era_kernels.models import JsonObject
from era_kernels.web import headers, unknown_fields

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


class AnswerHandler(RequestHandler):
    """Writes answers; what a request held that nobody knows is named in each of them."""

    # False where the object is of a form of its own: then only the header holds warnings.
    shows_warnings_in_body: ClassVar[bool] = True

    def _begin_answer(self) -> None:
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
        """Finishes with a JSON object; `size` is about how many bytes the JSON will take."""
        *pieces, last = await json_codec.dump_pieces(value, size)
        self.set_status(status)
        for piece in pieces:  # Tornado joins them, which is the only copy
            self.write(piece)
        self.finish(last)

    def finish(self, chunk: str | bytes | JsonObject | None = None) -> asyncio.Future[None]:
        """Finishes with a whole body; that of a JSON object gets its warnings and a newline."""
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

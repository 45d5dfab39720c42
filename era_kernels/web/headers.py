"""Reads the headers of a request that matter before its body is read."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping

from era_kernels.errors import InvalidRequest, UnsupportedMediaType

IDEMPOTENCY_KEY = "Idempotency-Key"
CONDITIONS = frozenset({"If-Match", "If-None-Match", "If-Unmodified-Since"})

_POST, _WRITES = frozenset({"POST"}), frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What callers count on, as Tornado spells it → the methods that it matters to, and what happens
# where it is not honoured.
_EXPECTATIONS: Mapping[str, tuple[frozenset[str], str]] = {
    IDEMPOTENCY_KEY: (_POST, "is honoured by run and stream alone: repeated, this is done again"),
    "Last-Event-Id": (_POST, "is honoured by GET of a stream alone: this is a request of its own"),
    **dict.fromkeys(
        sorted(CONDITIONS),
        (_WRITES, "is honoured by files and objects of R2 alone: this is done in any case"),
    ),
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
_LENGTH = re.compile(r"([0-9]{1,18})(?:,[ \t]*\1)*")


def request_id(headers: Mapping[str, str]) -> str:
    """Returns the caller's request id if it is valid, else a new one."""
    given = headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(8)}"


def ignored(method: str, headers: Mapping[str, str], honoured: Collection[str]) -> list[str]:
    """Returns a warning for each header that the caller counts on and that is not honoured."""
    return [
        f"{name} {_EXPECTATIONS[name][1]}"
        for name in headers
        if name in _EXPECTATIONS and name not in honoured and method in _EXPECTATIONS[name][0]
    ]


def has_body(headers: Mapping[str, str]) -> bool:
    """Returns whether a body comes behind these headers."""
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0").strip() != "0"


def parse_content_length(headers: Mapping[str, str]) -> int:
    """Returns the body's declared length, 0 when none is declared.

    Raises InvalidRequest for a framing that Tornado would refuse without an answer in JSON.
    """
    encoding = headers.get("Transfer-Encoding")
    length = headers.get("Content-Length")
    if encoding is not None:
        if length is not None:
            raise InvalidRequest("A request has a Content-Length or a Transfer-Encoding, not both.")
        if encoding.lower() != "chunked":
            raise InvalidRequest("The only Transfer-Encoding known here is chunked.")
        return 0
    if length is None:
        return 0
    found = _LENGTH.fullmatch(length)
    if found is None:
        raise InvalidRequest("The Content-Length is no number of bytes.")
    return int(found[1])


def check_uncompressed(headers: Mapping[str, str]) -> None:
    """Raises UnsupportedMediaType for a compressed body: a small one could unpack to gigabytes."""
    encoding = headers.get("Content-Encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise UnsupportedMediaType(
            "A JSON body must not be compressed.", hint="Send it without Content-Encoding."
        )

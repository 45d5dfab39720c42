"""Detects request heads that a proxy on the way could read differently (request smuggling)."""

from __future__ import annotations

import re

MAX_HEADER_FIELDS = 128  # header fields of a request
MAX_PARAMETERS = 1000  # parameters in the query of a request

_HTTP_1_0 = re.compile(rb"\A(?:\r\n)?[^\r]* HTTP/1\.0\r\n")
_TRANSFER_ENCODING = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)


def is_ambiguous(head: bytes) -> bool:
    """Returns whether programs could disagree on the meaning of `head`, up to its empty line.

    A lone LF or CR ends a line for some programs and is part of a value for others; HTTP/1.0 knows
    no Transfer-Encoding. RFC 9112, sections 2.2 and 6.1. A head of more than `MAX_HEADER_FIELDS`
    fields counts as ambiguous, too, and a query of more than `MAX_PARAMETERS`.
    """
    lines = head.count(b"\r\n")
    if not lines == head.count(b"\n") == head.count(b"\r"):
        return True
    if lines > MAX_HEADER_FIELDS and head.lstrip(b"\r\n").count(b"\n") > MAX_HEADER_FIELDS + 2:
        return True  # 2: the request line and the empty line
    if head.count(b"&") >= MAX_PARAMETERS and _first_line(head).count(b"&") >= MAX_PARAMETERS:
        return True
    return _HTTP_1_0.match(head) is not None and _TRANSFER_ENCODING.search(head) is not None


def _first_line(head: bytes) -> bytes:
    """Returns the request line; an empty line may come before it."""
    return head.lstrip(b"\r\n").partition(b"\n")[0]

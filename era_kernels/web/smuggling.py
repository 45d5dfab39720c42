"""Heads of requests that other programs on the way could read differently, and so are refused."""

from __future__ import annotations

import re

MAX_HEADER_FIELDS = 128  # header fields of a request

_HTTP_1_0 = re.compile(rb"\A(?:\r\n)?[^\r]* HTTP/1\.0\r\n")
_TRANSFER_ENCODING = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)


def is_ambiguous(head: bytes) -> bool:
    """Is it unsafe to guess what this means? `head` ends with its empty line.

    A lone LF or CR ends a line for some and is part of a value for others; HTTP/1.0 knows no
    Transfer-Encoding. RFC 9112, sections 2.2 and 6.1. More than `MOST_FIELDS` are no request.
    """
    lines = head.count(b"\r\n")
    if not lines == head.count(b"\n") == head.count(b"\r"):
        return True
    if lines > MAX_HEADER_FIELDS and head.lstrip(b"\r\n").count(b"\n") > MAX_HEADER_FIELDS + 2:
        return True  # beside the first line and the empty one
    return _HTTP_1_0.match(head) is not None and _TRANSFER_ENCODING.search(head) is not None

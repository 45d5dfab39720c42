"""Heads of requests that mean one thing only, and those that do not."""

from __future__ import annotations

import pytest

from era_kernels.web.ambiguous_heads import MAX_HEADER_FIELDS, MAX_PARAMETERS, is_ambiguous

LINE = b"GET / HTTP/1.1\r\n"
OLD = b"POST / HTTP/1.0\r\n"


@pytest.mark.parametrize(
    "head",
    [
        LINE + b"\r\n",
        LINE + b"Host: a\r\nX: \xff\tb\r\n\r\n",
        b"\r\n" + LINE + b"\r\n",
        LINE + b"Transfer-Encoding: chunked\r\n\r\n",
        OLD + b"Content-Length: 2\r\nX-Transfer-Encoding: chunked\r\n\r\n",
        LINE + b"X: y HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        LINE + b"a: b\r\n" * MAX_HEADER_FIELDS + b"\r\n",
        b"GET /?" + b"&a" * (MAX_PARAMETERS - 1) + b" HTTP/1.1\r\n\r\n",
        LINE + b"Cookie: " + b"&a" * 2 * MAX_PARAMETERS + b"\r\n\r\n",
    ],
    ids=range(9),
)
def test_plain(head: bytes) -> None:
    """What everybody reads in the same way goes on to the parser."""
    assert not is_ambiguous(head)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\n\n",
        LINE + b"\n",
        LINE + b"X: a\nY: b\r\n\r\n",
        LINE + b"X: a\rY: b\r\n\r\n",
        LINE + b"X: a\r\r\n\r\n",
        b"\n" + LINE + b"\r\n",
        OLD + b"Transfer-Encoding: chunked\r\n\r\n",
        OLD + b"transfer-encoding : chunked\r\n\r\n",
        b"\r\n" + OLD + b"Transfer-Encoding: chunked\r\n\r\n",
        LINE + b"a: b\r\n" * (MAX_HEADER_FIELDS + 1) + b"\r\n",
        b"GET /?" + b"&a" * MAX_PARAMETERS + b" HTTP/1.1\r\n\r\n",
        b"\r\nGET /?" + b"&a" * MAX_PARAMETERS + b" HTTP/1.1\r\nA: b\r\n\r\n",
    ],
    ids=range(12),
)
def test_ambiguous(head: bytes) -> None:
    """Lone CR and LF, a framing that the version does not know, and floods are refused."""
    assert is_ambiguous(head)

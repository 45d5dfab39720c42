"""Reads requests to the proxy, and rewrites heads for whom they are meant (RFC 9110).

h11 parses and frames; here stands what a proxy does beside that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import h11

from era_kernels.egress.connector import Outcome, Refused
from era_kernels.models.internet import normalize_host

MAX_HEAD = 16 * 1024  # bytes of request line and headers together
_MAX_HOST = 255  # characters
# A name, an address of IPv4 in any notation, or one of IPv6 in brackets; then the port.
_AUTHORITY = re.compile(rb"(?:([A-Za-z0-9_.-]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(rb"http://([^/?#]*)([/?][^#]*)?", re.IGNORECASE)
# Meant for one connection, not for the whole way.
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_FRAMING = {b"content-length", b"transfer-encoding"}
_HTTP_PORT = 80

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request leads; `head` is what is sent there, None for a tunnel."""

    host: str
    port: int
    head: h11.Request | None = None


def read_target(request: h11.Request) -> Target:
    """Returns where a request leads. Raises Refused for what is no request to a proxy."""
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise _malformed("A request has Content-Length or Transfer-Encoding, not both.")
    if request.method == b"CONNECT":
        if (
            b"transfer-encoding" in names
            or dict(request.headers).get(b"content-length", b"0") != b"0"
        ):
            raise _malformed("CONNECT has no body.")
        return Target(*_read_authority(request.target, None))
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None:
        raise _malformed("This is a proxy: it takes CONNECT host:port, and http:// addresses.")
    host, port = _read_authority(found[1], _HTTP_PORT)
    path = found[2] or b"/"
    headers = end_to_end(request.headers, drop={b"host"})
    head = h11.Request(
        method=request.method,
        target=path if path.startswith(b"/") else b"/" + path,
        headers=[(b"Host", found[1]), *headers, (b"Connection", b"close")],
    )
    return Target(host, port, head)


def _read_authority(text: bytes, default_port: int | None) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(text)
    port = default_port
    if found is not None and found[3] is not None:
        port = int(found[3])
    if found is None or port is None or not 0 < port < 65536 or len(text) > _MAX_HOST:
        raise _malformed("The request names no host and port that could be reached.")
    host = normalize_host((found[1] or found[2]).decode("ascii"))
    if not host:
        raise _malformed("The request names no host.")
    return host, port


def end_to_end(headers: Iterable[tuple[bytes, bytes]], drop: Collection[bytes] = ()) -> Headers:
    """Returns the headers that are meant for the whole way, and how a body is framed.

    `drop` names others that are left out. All names are in lower case, as h11 has them.
    """
    given = list(headers)
    left_out = {*_HOP_BY_HOP, *drop}
    for name, value in given:
        if name == b"connection":
            left_out.update(option.strip().lower() for option in value.split(b","))
    left_out -= _FRAMING
    is_chunked = any(name == b"transfer-encoding" for name, _ in given)
    if is_chunked:
        left_out |= _FRAMING
    kept = [(name, value) for name, value in given if name not in left_out]
    return [*kept, (b"transfer-encoding", b"chunked")] if is_chunked else kept


def _malformed(message: str) -> Refused:
    return Refused(400, message, Outcome.MALFORMED)

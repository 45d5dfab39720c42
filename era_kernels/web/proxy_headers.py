"""Translates headers between a caller and a program that listens in a session.

RFC 9110, section 7.6.1: headers about one connection end there. What a program answers must not
reach beyond its own path: redirects and cookies are confined to it, and headers that would hold
for the whole host are dropped.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

Headers = list[tuple[str, str]]

# About one connection only. `Expect` is answered here, before the body is read.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
# What the server itself says of a request; nobody else may.
_OWN_OF_REQUEST = frozenset(
    {
        "content-length",
        "forwarded",
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    }
)
_NOT_PASSED_ON = _HOP_BY_HOP | _OWN_OF_REQUEST
# What programs trust or need to read a request: no caller can have it dropped, or say it by another
# spelling.
_TRUSTED = frozenset({"authorization", "content-type", "cookie", "location", "origin", "x-api-key"})
# What holds for a host, and so for the API and other sessions, wherever it comes from.
_OF_WHOLE_HOST = frozenset(
    {
        "accept-ch",
        "alt-svc",
        "clear-site-data",
        "critical-ch",
        "expect-ct",
        "nel",
        "public-key-pins",
        "report-to",
        "service-worker-allowed",
        "set-login",
        "strict-transport-security",
    }
)
# Orders to web servers in front of this one (nginx, Apache, lighttpd, Perlbal): to answer with a
# file or an address of their own that no caller may ask for.
_TO_FRONT_SERVERS = frozenset(
    {
        "x-accel-redirect",
        "x-lighttpd-send-file",
        "x-lighttpd-send-tempfile",
        "x-reproxy-file",
        "x-reproxy-url",
        "x-sendfile",
        "x-sendfile2",
    }
)
_ADDRESSES = frozenset({"location", "content-location"})
_NO_TRAILERS = frozenset({"content-encoding", "content-length", "content-type", "set-cookie"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENCODED_DOT = re.compile("%2e", re.IGNORECASE)
_PLAIN_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]*")  # else browsers may read it as another name
_LOOPBACKS = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


_TARGET_CHARACTERS = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a port of a session is served: the host of the server, and the path before its own.

    `prefix` is empty where the port has a host of its own; `other_hosts` are names under which
    callers reach the server, too. Without `has_other_ports`, callers reach none but this one.
    """

    prefix: str
    host: str
    port: int
    path: str  # of the request, as the program sees it
    other_hosts: tuple[str, ...] = ()
    has_other_ports: bool = True


def request_headers(headers: Headers, own: Headers, *, is_upgrade: bool) -> Headers:
    """Returns what a program gets: the caller's end-to-end headers, then the server's `own`.

    Names that differ from the server's by underscores are dropped: many programs do not tell the
    two apart (CGI variables).
    """
    dropped = _NOT_PASSED_ON | _named_in_connection(headers)
    kept = [
        (name, value)
        for name, value in headers
        if (lower := name.lower().replace("_", "-")) not in dropped
        and ("_" not in name or lower not in _TRUSTED)
    ]
    connection = [("Connection", "Upgrade" if is_upgrade else "close")]
    return kept + own + connection + ([("Upgrade", "websocket")] if is_upgrade else [])


def response_headers(headers: Headers, place: Place) -> Headers:
    """Returns what the caller gets of a program's headers; its framing is made anew."""
    named = _named_in_connection(headers)
    of_host = _OF_WHOLE_HOST if place.prefix else frozenset()
    dropped = _HOP_BY_HOP | _TO_FRONT_SERVERS | of_host | named
    return [
        (name, _confine(name.lower(), _CONTROL.sub(" ", value), place))
        for name, value in headers
        if name.lower() not in dropped
    ]


def trailers(headers: Headers) -> Headers:
    """Returns what the caller gets of the headers behind a body: nothing that a proxy acts on."""
    dropped = _HOP_BY_HOP | _TO_FRONT_SERVERS | _OF_WHOLE_HOST | _ADDRESSES | _NO_TRAILERS
    return [
        (name, _CONTROL.sub(" ", value))
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith("access-control-")
    ]


def _named_in_connection(headers: Headers) -> set[str]:
    """Returns the names that `Connection` makes headers of one connection.

    Those that are trusted are not among them.
    """
    values = (value for name, value in headers if name.lower() == "connection")
    named = {part.strip().lower() for value in values for part in value.split(",")}
    return named - _TRUSTED


def _confine(name: str, value: str, place: Place) -> str:
    if name in _ADDRESSES:
        return confine_address(value, place)
    return confine_cookie(value, place) if name == "set-cookie" else value


def confine_address(address: str, place: Place) -> str:
    """Returns the address that leads a caller where a program meant it to go.

    The program's own, absolute or relative, lie below the prefix; so does what another port of the
    session serves. Addresses of other hosts are left as they are.
    """
    given, address = address, _as_browsers_read(address)
    try:
        has_plain_host, parts = bool(urlsplit(given).netloc), urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return place.prefix + "/"
    if parts.scheme and parts.scheme.lower() not in _DEFAULT_PORTS:
        return given
    if parts.netloc and not _is_own(parts, place):
        if not has_plain_host or not _PLAIN_HOST.fullmatch(parts.netloc.rpartition("@")[2]):
            return place.prefix + "/"
        if host not in _LOOPBACKS:
            return given
        if port not in (None, place.port):
            return _of_other_port(address, port, place)
    rest = address.partition("//")[2].partition("/") if parts.netloc else None
    local = address if rest is None else f"/{rest[2]}"
    if not place.prefix:
        return local
    if local.startswith((f"{place.prefix}/", f"{place.prefix}?")) or local == place.prefix:
        return _resolve(place.prefix + "/", local.removeprefix(place.prefix), place)
    return _resolve(place.prefix + place.path, local, place)


def _as_browsers_read(address: str) -> str:
    """Returns an address with plain slashes and dots where browsers see some: `\\` and `%2e`."""
    path, mark, rest = re.fullmatch(r"([^?#]*)([?#]?)(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]
    return _ENCODED_DOT.sub(".", path.replace("\\", "/")) + mark + rest


def _is_own(parts: SplitResult, place: Place) -> bool:
    """Returns whether an address is on this host, by whatever spelling of it.

    Where the address names no scheme it is that of the request, whose default port may be either.
    """
    schemes = [parts.scheme.lower()] if parts.scheme else list(_DEFAULT_PORTS)
    return any(
        _authority(parts, scheme) == _authority(urlsplit(f"//{host}"), scheme)
        for host in (place.host, *place.other_hosts)
        for scheme in schemes
    )


def _authority(parts: SplitResult, scheme: str) -> tuple[str, int]:
    """Returns the name and the port of a host, in one form for all spellings of an IP address."""
    name = (parts.hostname or "").removesuffix(".")
    with suppress(ValueError):
        name = str(ipaddress.ip_address(name))
    with suppress(OSError, UnicodeError):  # such as 127.1 and 0x7f000001
        name = socket.inet_ntoa(socket.inet_aton(name))
    return name, parts.port or _DEFAULT_PORTS[scheme]


def _of_other_port(address: str, port: int | None, place: Place) -> str:
    """Returns the address of another port of the session, where paths tell ports apart."""
    if not place.prefix or not place.has_other_ports:
        return address
    prefix = f"{place.prefix.rpartition('/')[0]}/{port}"
    path = address.partition("//")[2].partition("/")[2]
    return _resolve(f"{prefix}/", f"/{path}", Place(prefix, place.host, place.port, "/"))


def _resolve(base: str, local: str, place: Place) -> str:
    """Returns an address on this host below the prefix: `..` leads to its top at most."""
    base_path = base.removeprefix(place.prefix) or "/"
    resolved = urlsplit(urljoin(f"http://host{base_path}", _one_slash(local)))
    tail = (f"?{resolved.query}" if resolved.query else "") + (
        f"#{resolved.fragment}" if resolved.fragment else ""
    )
    return place.prefix + (resolved.path or "/") + tail


def _one_slash(local: str) -> str:
    """Returns a local address with at most one slash in front: two would name a host."""
    stripped = local.lstrip("/\\")
    return f"/{stripped}" if stripped != local else local


def confine_cookie(cookie: str, place: Place) -> str:
    """Returns a cookie of this host and this port's path alone."""
    pair, *attributes = cookie.split(";")
    path, kept = _default_path(place.path), []
    for attribute in attributes:
        name, _, value = attribute.strip().partition("=")
        if name.strip().lower() == "path":
            path = value.strip() if value.strip().startswith("/") else path
        elif name.strip().lower() != "domain":
            kept.append(attribute.strip())
    if place.prefix and not _is_below(path, place.prefix):
        path = place.prefix + ("" if path == "/" else path)
    return "; ".join([pair.strip(), f"Path={path}", *kept])


def _default_path(path: str) -> str:
    """Returns the path of a cookie that names none: RFC 6265, section 5.1.4."""
    return path.partition("?")[0].rpartition("/")[0] or "/"


def _is_below(path: str, prefix: str) -> bool:
    return (path == prefix or path.startswith(f"{prefix}/")) and ".." not in path


def encode(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[bytes, bytes]]:
    """Yields headers as bytes, as they are sent."""
    for name, value in headers:
        yield name.encode("latin1"), value.strip().encode("latin1")


def to_target(text: str) -> str:
    """Returns a part of a URL as it may stand in a request line; Tornado reads it as Latin-1."""
    return quote(text, safe=_TARGET_CHARACTERS, encoding="latin1")

"""Admits requests with a token; on a server without tokens, those of this machine and its pages."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from era_kernels.errors import Forbidden, InvalidRequest, Unauthorized
from era_kernels.web.tokens import ApiTokens

MAX_HOST_LENGTH = 253  # characters of a name in DNS
_NO_ADDRESS = "0.0.0.0"  # Tornado's word for the client of a unix socket
_DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
# Custom metadata has any names. `*` stands for them: it holds for requests without credentials, and
# no others are allowed. Browsers that do not know it go by the names beside it.
_EXPOSED_HEADERS = (
    "X-Request-Id, X-Execution-Id, X-Warnings, Retry-After, Allow, Content-Range, Accept-Ranges, "
    "ETag, *"
)
_ALLOWED_HEADERS = (
    "Authorization, X-API-Key, Content-Type, Idempotency-Key, Last-Event-ID, Range, If-Range, "
    "If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, X-Request-Id"
)
_METADATA_HEADER = re.compile(r"x-era-meta-[a-z0-9!#$&'*+.^_`|~%-]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: trusted with a token, or by its place where there are no tokens."""

    is_trusted: bool = False
    token_name: str = ""


class Access:
    """Admits or refuses a request by its headers.

    On a server with tokens, protected paths need a token. On a server without tokens, the Host must
    be loopback or allowed (a page of another site could otherwise reach this server by rebinding
    its own name), and an Origin must be the server's own or allowed.
    """

    def __init__(
        self,
        *,
        tokens: Sequence[str] = (),
        token_file: Path | None = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        public_url: str | None = None,
        trust_forwarded: bool = False,
    ) -> None:
        """Reads the token file (blocking). Raises StartError when reading fails."""
        self._tokens = ApiTokens(tokens, token_file)
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._public_url = public_url.rstrip("/") if public_url else None
        self._trust_forwarded = trust_forwarded

    def refresh_if_due(self) -> Awaitable[None] | None:
        """Returns the re-reading of the token file, to await before `check`; None when not due."""
        return self._tokens.refresh_if_due()

    @property
    def has_tokens(self) -> bool:
        """True where callers show who they are by a token."""
        return bool(self._tokens)

    def check(self, request: HTTPServerRequest, *, requires_token: bool) -> Caller:
        """Returns who asks.

        Raises Unauthorized (no valid token) or Forbidden (foreign Host or Origin).
        """
        if not self._tokens:
            self._check_hosts(request)
            self._check_origin(request)
            return Caller(is_trusted=True)
        name = self._tokens.find_name(_token_candidates(request))
        if name is None and requires_token and request.method != "OPTIONS":
            raise _unauthorized(request)
        return Caller(is_trusted=name is not None, token_name=name or "")

    def check_served(self, request: HTTPServerRequest, *, has_own_host: bool) -> Caller:
        """Returns who asks for what a session serves, as its own sandboxed pages may.

        `has_own_host`: the host is that of a port, and known. Raises Forbidden.
        """
        if self._tokens:
            return self.check(request, requires_token=False)
        if not has_own_host:
            self._check_hosts(request)
        if not is_sandboxed(request):
            self._check_origin(request)
        return Caller(is_trusted=True)

    def client_address(self, request: HTTPServerRequest) -> str:
        """Returns the address that the connection, or a trusted proxy, names; empty for none."""
        forwarded = self._forwarded(request, "X-Forwarded-For")
        address = forwarded if _is_address(forwarded) else request.remote_ip or ""
        return "" if address == _NO_ADDRESS else address

    def forwarded_headers(self, request: HTTPServerRequest) -> list[tuple[str, str]]:
        """Returns what a program behind this server is told of the caller's connection."""
        chain = [self._forwarded_chain(request), request.remote_ip or ""]
        return [
            ("X-Forwarded-For", ", ".join(filter(None, chain))),
            ("X-Forwarded-Host", self._host(request)),
            ("X-Forwarded-Proto", self._scheme(request)),
        ]

    def headers_without_tokens(self, request: HTTPServerRequest) -> list[tuple[str, str]]:
        """Returns the headers of a request without those that hold a token of the API."""
        return [
            (name, value)
            for name, value in request.headers.get_all()
            if not self._tokens or not self._has_token(name.lower(), value)
        ]

    def base_url(self, request: HTTPServerRequest) -> str:
        """Returns `public_url`, else the request's scheme and host; without a slash at the end."""
        return self._public_url or f"{self._scheme(request)}://{self._host(request)}"

    def own_hosts(self, request: HTTPServerRequest) -> tuple[str, ...]:
        """Returns the hosts under which callers reach this server, the request's first."""
        return request.host, self._host(request), urlsplit(self._public_url or "").netloc

    def cors_headers(self, request: HTTPServerRequest) -> dict[str, str]:
        """Returns the headers that let a page of an allowed origin read the answer."""
        if not self._origins:
            return {}
        origin = request.headers.get("Origin")
        if origin is None or not self._is_allowed_origin(origin):
            return {"Vary": "Origin"}
        headers = {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _EXPOSED_HEADERS,
        }
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Headers"] = ", ".join(
                [_ALLOWED_HEADERS, *_metadata_headers(request)]
            )
            headers["Access-Control-Max-Age"] = "600"
        return headers

    def _check_hosts(self, request: HTTPServerRequest) -> None:
        # The real Host is checked as well: a page that rebinds can send any forwarding header.
        for host in {request.host, self._host(request)}:
            name, _ = _split_host(host)
            if not _is_loopback(name) and not self._hosts & {name, host.lower(), "*"}:
                raise Forbidden(
                    f"This server does not answer to the host name {name}.",
                    hint="Add it to the setting allowed_hosts, or set an API token.",
                )

    def _check_origin(self, request: HTTPServerRequest) -> None:
        origin = request.headers.get("Origin")
        if origin is None or self._is_allowed_origin(origin):
            return
        scheme, _, host = origin.lower().partition("://")
        own_hosts = [_authority(own, scheme) for own in self.own_hosts(request)]
        caller = _authority(host, scheme)
        if caller is None or caller not in own_hosts:
            raise Forbidden(
                "This server does not answer to pages of other origins.",
                hint="Add the origin to the setting allowed_origins.",
            )

    def _is_allowed_origin(self, origin: str) -> bool:
        """Returns whether the origin is allowed; `*` does not cover `null` (sandboxed pages)."""
        is_listed = origin.lower() in self._origins
        return is_listed or ("*" in self._origins and origin.lower() != "null")

    def _host(self, request: HTTPServerRequest) -> str:
        """Returns the host that a proxy forwarded, if it is a valid one, else the request's.

        The host becomes a part of addresses, so anything but a valid host is ignored.
        """
        forwarded = self._forwarded(request, "X-Forwarded-Host")
        return forwarded if _AUTHORITY.fullmatch(forwarded) else request.host

    def _scheme(self, request: HTTPServerRequest) -> str:
        scheme = self._forwarded(request, "X-Forwarded-Proto").lower()
        return scheme if scheme in _DEFAULT_PORTS else request.protocol

    def _forwarded_chain(self, request: HTTPServerRequest) -> str:
        """Returns the addresses that trusted proxies name, as they are written."""
        return request.headers.get("X-Forwarded-For", "") if self._trust_forwarded else ""

    def _has_token(self, name: str, value: str) -> bool:
        candidates = {"authorization": _bearer_tokens(value), "x-api-key": [value.strip()]}
        return self._tokens.find_name(candidates.get(name, [])) is not None

    def _forwarded(self, request: HTTPServerRequest, name: str) -> str:
        """Returns the nearest proxy's value of a header; empty where proxies are not trusted."""
        if not self._trust_forwarded:
            return ""
        return request.headers.get(name, "").rpartition(",")[2].strip()


def _metadata_headers(request: HTTPServerRequest) -> list[str]:
    """Returns the headers of custom metadata that a page asks leave for: CORS has no prefixes."""
    asked = request.headers.get("Access-Control-Request-Headers", "").split(",")
    return [name.strip() for name in asked if _METADATA_HEADER.fullmatch(name.strip())]


def _token_candidates(request: HTTPServerRequest) -> list[str]:
    """Returns every text that the caller sent in the place of a token."""
    bearer = _bearer_tokens(request.headers.get("Authorization", ""))
    return [*bearer, *request.headers.get_list("X-API-Key")]


def _bearer_tokens(authorization: str) -> list[str]:
    scheme, _, token = authorization.partition(" ")
    return [token.strip()] if scheme.lower() == "bearer" else []


def is_sandboxed(request: HTTPServerRequest) -> bool:
    """Returns whether a page without an origin of its own asks, as what sessions serve is."""
    return str(request.headers.get("Origin", "")).lower() == "null"


def _unauthorized(request: HTTPServerRequest) -> Unauthorized:
    """Returns the error for a request whose token is wrong or missing."""
    hint = "Send it as `Authorization: Bearer <token>` or as `X-API-Key: <token>`."
    if any(_token_candidates(request)):
        return Unauthorized("This API token is not valid.", hint=hint)
    header = request.headers.get("Authorization", "").strip()
    if header and header.lower() != "bearer":
        hint = "The header lacks the word Bearer: `Authorization: Bearer <token>`."
    return Unauthorized("This server needs an API token.", hint=hint)


def _split_host(host: str) -> tuple[str, int | None]:
    """Returns the name, in lower case without brackets or a last dot, and the port.

    Raises InvalidRequest.
    """
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidRequest("The Host header is malformed.") from None
    return name.removesuffix("."), port


def _authority(host: str, scheme: str) -> tuple[str, int | None] | None:
    """Returns host and port in a form to compare, or None for a text that is no host (`null`)."""
    try:
        name, port = _split_host(host)
    except InvalidRequest:
        return None
    return (name, port or _DEFAULT_PORTS.get(scheme)) if name else None


def _is_loopback(name: str) -> bool:
    return len(name) <= MAX_HOST_LENGTH and _is_name_of_loopback(name)


@lru_cache(maxsize=64)  # each request names a host or two, the same as the one before
def _is_name_of_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _is_address(text: str) -> bool:
    if not text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

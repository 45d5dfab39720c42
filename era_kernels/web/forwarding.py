"""Makes of a request the head that a program of a session gets."""

from __future__ import annotations

from tornado.httputil import HTTPServerRequest

from era_kernels.web import headers, proxy_headers
from era_kernels.web.access import Access
from era_kernels.web.proxy_headers import Headers, Place, to_target


def is_upgrade(request: HTTPServerRequest) -> bool:
    """Returns whether a WebSocket is asked for; no other protocol is passed on."""
    words = request.headers.get("Connection", "").lower().split(",")
    has_word = "upgrade" in map(str.strip, words)
    upgrade = request.headers.get("Upgrade", "").strip().lower()
    return upgrade == "websocket" and has_word and request.method == "GET"


def request_headers(
    access: Access, request: HTTPServerRequest, request_id: str, place: Place
) -> Headers:
    """Returns the headers for the program: the caller's, and what this server says of it."""
    own = [
        ("Host", request.host),
        *access.forwarded_headers(request),
        ("X-Request-Id", request_id),
    ]
    if place.prefix:
        own.append(("X-Forwarded-Prefix", place.prefix))
    if "Transfer-Encoding" in request.headers:
        own.append(("Transfer-Encoding", "chunked"))
    elif "Content-Length" in request.headers:
        own.append(("Content-Length", str(headers.parse_content_length(request.headers))))
    given = access.headers_without_tokens(request)
    return proxy_headers.request_headers(given, own, is_upgrade=is_upgrade(request))


def query_of(request: HTTPServerRequest) -> str:
    """Returns the query with its `?`, as it may stand in a request line; empty without one."""
    _, mark, query = (request.uri or "").partition("?")
    return mark + to_target(query)


def is_navigation(request: HTTPServerRequest) -> bool:
    """Returns whether a browser is about to show the answer as a page.

    Browsers tell it over safe connections only; else they ask for HTML, as few others do.
    """
    mode = request.headers.get("Sec-Fetch-Mode")
    shows = mode == "navigate" if mode else "text/html" in request.headers.get("Accept", "")
    return request.method in ("GET", "HEAD") and shows

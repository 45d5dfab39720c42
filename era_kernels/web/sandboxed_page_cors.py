"""Lets pages of sessions, which a policy has left without an origin, reach what sessions serve."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tornado.httputil import HTTPServerRequest

from era_kernels.web.access import is_sandboxed

if TYPE_CHECKING:
    from era_kernels.web.base_handler import BaseHandler

_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2000}")


def allow(handler: BaseHandler) -> None:
    """Lets a page that asks without an origin read the answer; it has no cookies to send."""
    if is_sandboxed(handler.request):
        handler.set_sticky_header("Access-Control-Allow-Origin", "null")
        handler.set_sticky_header("Access-Control-Expose-Headers", "*")
        handler.set_sticky_header("Vary", "Origin")


def is_preflight(request: HTTPServerRequest) -> bool:
    """Returns whether a browser asks if such a page may send a request."""
    asks = "Access-Control-Request-Method" in request.headers
    return request.method == "OPTIONS" and asks and is_sandboxed(request)


def answer_preflight(handler: BaseHandler) -> None:
    """Allows the page what it asks for."""
    handler.set_status(204)
    asked = handler.request.headers.get("Access-Control-Request-Headers", "")
    if _HEADER_NAMES.fullmatch(asked):
        handler.set_header("Access-Control-Allow-Headers", asked)
    handler.set_header("Access-Control-Allow-Methods", handler.allowed_methods())
    handler.set_header("Access-Control-Max-Age", "600")

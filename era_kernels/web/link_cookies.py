"""The cookie that stands for a link on the host of its port, once a browser has opened the link."""

from __future__ import annotations

from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from era_kernels.services.links import PORT_SECRET
from era_kernels.web.proxy_headers import Headers

MAX_SECRETS = 4  # of one request that are looked up: other hosts of the domain may add some
_NAME = "era_link"
_SECURE_NAME = f"__Host-{_NAME}"  # which pages of other hosts cannot set


def make(secret: str, max_age: int, *, is_secure: bool) -> str:
    """Returns the value of `Set-Cookie` for a link that expires in `max_age` seconds."""
    name, last = (_SECURE_NAME, "; Secure") if is_secure else (_NAME, "")
    return f"{name}={secret}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{last}"


def secrets_in(request: HTTPServerRequest) -> list[str]:
    """Returns the secrets of links that a request holds, if it was not another site's page's idea.

    Hosts of other sessions are of the same site: `SameSite` does not keep their pages out.
    """
    if not _is_of_own_page(request):
        return []
    pairs = [
        _split(part) for line in request.headers.get_list("Cookie") for part in line.split(";")
    ]
    found = [value for name, value in pairs if name in (_NAME, _SECURE_NAME)]
    return [value for value in found if PORT_SECRET.fullmatch(value)][:MAX_SECRETS]


def without(headers: Headers) -> Headers:
    """Returns the headers without the cookies of links, which are no program's."""
    kept: Headers = []
    for name, value in headers:
        if name.lower() == "cookie":
            parts = value.split(";")
            others = [part for part in parts if _split(part)[0] not in (_NAME, _SECURE_NAME)]
            if len(others) < len(parts):
                value = ";".join(others).strip()
                if not value:
                    continue
        kept.append((name, value))
    return kept


def _split(part: str) -> tuple[str, str]:
    name, _, value = part.strip().partition("=")
    return name, value


def _is_of_own_page(request: HTTPServerRequest) -> bool:
    """Returns whether a page of this very host asks, or a person who opens the page."""
    headers = request.headers
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        return False
    site, mode = headers.get("Sec-Fetch-Site"), headers.get("Sec-Fetch-Mode")
    return site in (None, "none", "same-origin") or mode == "navigate"

"""Serves a port of a session on a host of its own, on which nothing else answers."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from era_kernels.errors import InvalidPath, LinkExpired, LinkNotFound
from era_kernels.models import Link, now
from era_kernels.services.links import unknown_link
from era_kernels.services.port_proxies import host_label
from era_kernels.web import forwarding, link_cookies
from era_kernels.web.access import Caller
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.link_ports import PortLinkHandler
from era_kernels.web.port_hosts import parse_host
from era_kernels.web.ports import MAX_PORT
from era_kernels.web.proxy import ProxyHandler
from era_kernels.web.proxy_headers import Headers, Place, to_target

if TYPE_CHECKING:
    from era_kernels.services.links import LinkService
    from era_kernels.services.port_proxies import PortProxies
    from era_kernels.services.stored_code_requests import StoredCodeRequests


class PortHostHandler(ProxyHandler):
    """Passes on every path; the pages have an origin of their own, and need no policy."""

    def initialize(  # type: ignore[override]
        self,
        context: HandlerContext,
        proxies: PortProxies,
        code_requests: StoredCodeRequests,
        links: LinkService,
    ) -> None:
        super().initialize(context, proxies, code_requests)
        self._links = links
        self._link: Link | None = None  # that a cookie of the request stands for

    def _set_policy(self) -> None:
        """Sets none."""

    @property
    def _may_enter(self) -> bool:
        return super()._may_enter or self._link is not None

    def _check_access(self) -> Caller:
        return self.context.access.check_served(self.request, has_own_host=True)

    def check_path(self) -> None:
        port, self._session_id = parse_host(self.request.host_name)
        if port > MAX_PORT or not self.request.path.startswith("/"):
            raise InvalidPath("This is no host of a port.", format="{port}-{id}.{domain}")
        self._place = Place("", self.request.host, port, to_target(self.request.path))
        self.logged_path = f"/proxy/{self._session_id}/{port}/*"

    async def _find_session(self) -> str:
        session_id = await self._proxies.find_id(self._session_id)
        if super()._may_enter:  # the end of a link is none of a caller's who has a token
            return session_id
        for secret in link_cookies.secrets_in(self.request):
            self._link = await self._find_link(secret, session_id)
            if self._link is not None:
                break
        return session_id

    async def _find_link(self, secret: str, session_id: str) -> Link | None:
        """Returns the link if it opens this port of this session."""
        try:
            link = await self._links.find(secret)
        except (LinkNotFound, LinkExpired):
            return None
        is_meant = link.session_id == session_id and link.target.port == self._place.port
        return link if is_meant else None

    @contextmanager
    def _hold(self) -> Iterator[None]:
        close, watched = self._connection.stream.close, ExitStack()
        with watched, super()._hold():
            if self._link is not None:
                watched.enter_context(self._links.watch(self._link, close, ends_at_expiry=True))
            yield

    def _request_headers(self) -> Headers:
        return link_cookies.without(super()._request_headers())


class PortHostLinkHandler(PortLinkHandler):
    """Serves a link on the host of its port.

    A browser that opens it gets a cookie, and goes on without the secret in its address: there,
    every path is the program's.
    """

    def _set_policy(self) -> None:
        """Sets none."""

    def _check_access(self) -> Caller:
        return self.context.access.check_served(self.request, has_own_host=True)

    async def _find_session(self) -> str:
        session_id = await super()._find_session()
        port, label = parse_host(self.request.host_name)
        if port != self._place.port or label != host_label(session_id):
            raise unknown_link()
        return session_id

    def before_body(self) -> Awaitable[None] | None:
        return (
            self._find_link() if forwarding.is_navigation(self.request) else super().before_body()
        )

    async def _find_link(self) -> None:
        await self._find_session()

    def _request_headers(self) -> Headers:
        return link_cookies.without(super()._request_headers())

    async def _answer(self, *args: str) -> None:
        if not forwarding.is_navigation(self.request):
            await super()._answer(*args)
            return
        left = int((self.link.expires_at - now()).total_seconds())
        is_secure = self.context.access.base_url(self.request).startswith("https:")
        cookie = link_cookies.make(self._secret, max(left, 0), is_secure=is_secure)
        self.set_header("Set-Cookie", cookie)
        self.redirect_to("/" + self._path.lstrip("/\\"), 303)

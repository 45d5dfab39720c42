"""Serves the port that a link opens, below the path of the link."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from era_kernels.models import Link
from era_kernels.services.links import PORT_SECRET, unknown_link
from era_kernels.web import forwarding
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.link_files import LOGGED_PATH, REFERRER_POLICY
from era_kernels.web.proxy import ProxyHandler
from era_kernels.web.proxy_headers import Place, to_target

if TYPE_CHECKING:
    from era_kernels.services.links import LinkService
    from era_kernels.services.port_proxies import PortProxies
    from era_kernels.services.stored_code_requests import StoredCodeRequests


class PortLinkHandler(ProxyHandler):
    """Passes on requests to the port of a link, whose secret is all that a caller needs."""

    def initialize(  # type: ignore[override]
        self,
        context: HandlerContext,
        proxies: PortProxies,
        code_requests: StoredCodeRequests,
        links: LinkService,
    ) -> None:
        super().initialize(context, proxies, code_requests)
        self._links = links
        self._link: Link | None = None
        self.logged_path = LOGGED_PATH
        self.set_sticky_header("Referrer-Policy", REFERRER_POLICY)

    @property
    def _may_enter(self) -> bool:
        return True

    def check_path(self) -> None:
        """Takes the path apart. Raises LinkNotFound."""
        _, _, self._secret, *rest = self.request.path.split("/", 3)
        if not PORT_SECRET.fullmatch(self._secret):
            raise unknown_link()
        if not rest and forwarding.is_navigation(self.request):
            self._redirection = f"/link/{self._secret}/"
        self._path = to_target("/" + "".join(rest))

    @property
    def link(self) -> Link:
        """The link, which was found before the program was asked."""
        assert self._link is not None
        return self._link

    async def _find_session(self) -> str:
        """Returns the id of the session. Raises LinkNotFound, LinkExpired."""
        self._link = await self._links.find(self._secret)
        assert self._link.target.port is not None
        host, *others = self.context.access.own_hosts(self.request)
        self._place = Place(
            f"/link/{self._secret}",
            host,
            self._link.target.port,
            self._path,
            tuple(filter(None, others)),
            has_other_ports=False,
        )
        return self._link.session_id

    @contextmanager
    def _hold(self) -> Iterator[None]:
        close = self._connection.stream.close
        with self._links.watch(self.link, close, ends_at_expiry=True), super()._hold():
            yield

    async def _find_program(self) -> None:
        await super()._find_program()
        await self._links.check(self.link)  # it is no program of another session with the id

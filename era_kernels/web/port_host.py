"""Serves a port of a session on a host of its own, on which nothing else answers."""

from __future__ import annotations

from era_kernels.errors import InvalidPath
from era_kernels.web.access import Caller
from era_kernels.web.port_hosts import parse_host
from era_kernels.web.ports import MAX_PORT
from era_kernels.web.proxy import ProxyHandler
from era_kernels.web.proxy_headers import Place, to_target


class PortHostHandler(ProxyHandler):
    """Passes on every path; the pages have an origin of their own, and need no policy."""

    def _set_policy(self) -> None:
        """Sets none."""

    def _check_access(self) -> Caller:
        return self.context.access.check_served(self.request, has_own_host=True)

    def check_path(self) -> None:
        port, self._session_id = parse_host(self.request.host_name)
        if port > MAX_PORT or not self.request.path.startswith("/"):
            raise InvalidPath("This is no host of a port.", format="{port}-{id}.{domain}")
        self._place = Place("", self.request.host, port, to_target(self.request.path))
        self.logged_path = f"/proxy/{self._session_id}/{port}/*"

    async def _find_session(self) -> str:
        return await self._proxies.find_id(self._session_id)

"""Serves the internet to sessions: an HTTP proxy on a listening socket in the network of each.

Programs ask it for a tunnel to a host (CONNECT), or for an address that begins with http://. It
resolves names itself and connects to the very address that it has checked, so that no DNS leads to
private addresses. What a session may reach is asked at every request; `recheck` cuts off what it
may not reach any more.
"""

from __future__ import annotations

from collections.abc import Callable

from era_kernels.concurrency.accepting import ConnectionLimit
from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.egress.connector import Connector, Outcome
from era_kernels.egress.session_proxy import SessionProxy
from era_kernels.models import SessionListener
from era_kernels.models.internet import InternetAccess


class EgressProxy:
    """Is the proxy of all sessions."""

    def __init__(
        self,
        connector: Connector,
        max_connections: int,
        on_request: Callable[[Outcome], object] = lambda outcome: None,
    ) -> None:
        """Connections of all sessions share the maximum; `on_request` is told how each went.

        A session has one connection all the same when there are as many.
        """
        self._connector = connector
        self._connections = ConnectionLimit(max_connections)
        self._on_request = on_request
        self._background = BackgroundTasks()
        self._sessions: set[SessionProxy] = set()

    def attach(
        self, listener: SessionListener, access: Callable[[], InternetAccess]
    ) -> SessionProxy:
        """Serves one session from now on, until its `close` is called, which closes the socket.

        `access` returns what the session may reach at that moment.
        """
        session = SessionProxy(
            listener,
            access,
            limit=self._connections,
            connector=self._connector,
            on_request=self._on_request,
            background=self._background,
            on_closed=self._sessions.discard,
        )
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        """Cuts off the connections of all sessions; a second call is fine."""
        for session in tuple(self._sessions):
            session.close()
        await self._background.aclose()

"""Accepts the connections of one session to the proxy, and cuts off what it may reach no more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from era_kernels.concurrency.accepting import ConnectionLimit, LimitedAcceptor
from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.egress.connector import Connector, Outcome
from era_kernels.egress.proxy_connection import ProxyConnection
from era_kernels.models import SessionListener
from era_kernels.models.internet import InternetAccess

MAX_CONNECTING = 8  # of one session at the same time


class SessionProxy:
    """Is the proxy as one session sees it, until `close` is called."""

    def __init__(
        self,
        listener: SessionListener,
        access: Callable[[], InternetAccess],
        *,
        limit: ConnectionLimit,
        connector: Connector,
        on_request: Callable[[Outcome], object],
        background: BackgroundTasks,
        on_closed: Callable[[SessionProxy], object],
    ) -> None:
        """Accepts connections from now on; `access` returns what is allowed at that moment.

        All sessions share the rest.
        """
        self._access = access
        self._connector = connector
        self._on_request = on_request
        self._background = background
        self._on_closed = on_closed
        self._connections: dict[asyncio.Task[None], ProxyConnection] = {}
        self._connecting = asyncio.Semaphore(MAX_CONNECTING)
        self._acceptor = LimitedAcceptor(listener.socket, self._on_connection, limit)

    @property
    def access(self) -> InternetAccess:
        """What the session may reach at this moment."""
        return self._access()

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connection to a host, a few at a time. Raises Refused."""
        async with self._connecting:
            return await self._connector.connect(host, port)

    def count(self, outcome: Outcome) -> None:
        """Counts how a request went."""
        self._on_request(outcome)

    def recheck(self) -> None:
        """Cuts off the connections to hosts that the session may not reach any more."""
        access = self._access()
        for task, connection in self._connections.items():
            if connection.host is not None and not access.allows(connection.host):
                task.cancel()

    def close(self) -> None:
        """Cuts off all connections and closes the listening socket; a second call does nothing."""
        if self._acceptor.is_closed:
            return
        self._acceptor.close()
        for task in self._connections:
            task.cancel()
        self._on_closed(self)

    def _on_connection(self, accepted: socket.socket, _: object) -> None:
        accepted.setblocking(False)
        self._acceptor.acquire()
        connection = ProxyConnection(accepted, self)
        task = self._background.spawn(connection.run())
        self._connections[task] = connection
        task.add_done_callback(partial(self._on_ended, accepted))

    def _on_ended(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()  # also of a task that was cancelled before it began
        del self._connections[task]
        self._acceptor.release()

"""Accepts the connections of one session to the proxy, and cuts off what it may reach no more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from era_kernels.egress.connection import ProxyConnection
from era_kernels.egress.connector import Outcome
from era_kernels.models import SessionListener
from era_kernels.models.internet import InternetAccess

MAX_SESSION_CONNECTIONS = 64
MAX_CONNECTING = 8  # of one session at the same time
RETRY_INTERVAL = 0.25  # seconds until a session that must wait tries to accept again
_ACCEPTED_AT_ONCE = 8  # then others get their turn


class ProxyHost(Protocol):
    """Names what a session needs of the proxy that serves all of them."""

    @property
    def has_room(self) -> bool:
        """True while all sessions together may have another connection."""

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connection to a host. Raises Refused."""

    def count(self, outcome: Outcome) -> None:
        """Counts how a request went."""

    def start(self, connection: ProxyConnection) -> asyncio.Task[None]:
        """Serves a connection in a task of its own."""

    def forget(self, session: SessionProxy) -> None:
        """Serves a session no more."""


class SessionProxy:
    """Is the proxy as one session sees it, until `close` is called."""

    def __init__(
        self, host: ProxyHost, listener: SessionListener, access: Callable[[], InternetAccess]
    ) -> None:
        """Accepts connections from now on; `access` returns what is allowed at that moment."""
        listener.socket.setblocking(False)
        self._host = host
        self._listener = listener
        self._access = access
        self._connections: dict[asyncio.Task[None], ProxyConnection] = {}
        self._connecting = asyncio.Semaphore(MAX_CONNECTING)
        self._retry_timer: asyncio.TimerHandle | None = None
        self._is_accepting = False
        self._is_closed = False
        self._resume()

    @property
    def access(self) -> InternetAccess:
        """What the session may reach at this moment."""
        return self._access()

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connection to a host, a few at a time. Raises Refused."""
        async with self._connecting:
            return await self._host.connect(host, port)

    def count(self, outcome: Outcome) -> None:
        """Counts how a request went."""
        self._host.count(outcome)

    def recheck(self) -> None:
        """Cuts off the connections to hosts that the session may not reach any more."""
        access = self._access()
        for task, connection in self._connections.items():
            if connection.host is not None and not access.allows(connection.host):
                task.cancel()

    def close(self) -> None:
        """Cuts off all connections and closes the listening socket; a second call does nothing."""
        if self._is_closed:
            return
        self._pause()
        self._is_closed = True
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self._listener.socket.close()
        for task in self._connections:
            task.cancel()
        self._host.forget(self)

    # ------------------------------------------------------------ connections

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._has_room:
                self._wait_for_room()
                return
            try:
                accepted, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError:  # no descriptors are left
                self._wait_for_room()
                return
            accepted.setblocking(False)
            connection = ProxyConnection(accepted, self)
            task = self._host.start(connection)
            self._connections[task] = connection
            task.add_done_callback(partial(self._on_ended, accepted))

    @property
    def _has_room(self) -> bool:
        count = len(self._connections)
        return count < MAX_SESSION_CONNECTIONS and (self._host.has_room or not count)

    def _on_ended(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()  # also of a task that was cancelled before it began
        del self._connections[task]
        self._resume()

    def _wait_for_room(self) -> None:
        self._pause()
        if self._retry_timer is None:
            loop = asyncio.get_running_loop()
            self._retry_timer = loop.call_later(RETRY_INTERVAL, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        self._resume()

    def _resume(self) -> None:
        if not (self._is_closed or self._is_accepting):
            self._is_accepting = True
            loop = asyncio.get_running_loop()
            loop.add_reader(self._listener.socket.fileno(), self._accept)

    def _pause(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            asyncio.get_running_loop().remove_reader(self._listener.socket.fileno())

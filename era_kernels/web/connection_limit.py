"""Keeps connections within their number: some for known callers; slow strangers go first."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from itertools import islice
from typing import Protocol, cast

from tornado.httputil import HTTPServerRequest

MAX_LINGERING = 64  # connections whose client may still read its last answer, at the same time
LINGER_TIMEOUT = 5.0  # seconds that such a client has
LINGER_BYTES = 64 * 1024  # bytes of such a client that are read and thrown away
LINGER_PAUSE = 1.0  # seconds until the close after that: it may read before its writing fails
NEW_SECONDS = 0.5  # seconds in which a stranger keeps its place while there are others
UNREAD_SECONDS = 5.0  # the same for one that has sent what the server has not read yet
MAX_LOOKS = 64  # strangers that are looked at for one new connection
UNACKNOWLEDGED_TIMEOUT = 120.0  # seconds that a client may leave what was sent to it unacknowledged
RESERVE_PERCENT = 25  # of all connections: only for callers who have shown that they may come in


class Connection(Protocol):
    """Names what is needed of one connection; its socket does not block."""

    socket: socket.socket

    def give_up(self) -> None:
        """Ends the connection, for another one needs its place."""


class Client(Protocol):
    """Names what the handler of a request tells the connection that it came by."""

    owner: object  # who has one turn at a time; None: all that come by the API

    def trust(self) -> bool:
        """Notes that the client has shown that it may come in: it keeps its place.

        Returns whether it was a stranger until now.
        """

    def distrust(self) -> None:
        """Makes the client a stranger again: it was trusted for one request only."""

    def linger(self) -> None:
        """Lets the client read its answer before the close, though it has sent what is not read."""


def client_of(request: HTTPServerRequest) -> Client:
    """Returns the connection of a request."""
    return cast(Client, request.connection.stream)  # type: ignore[union-attr]


class Connections:
    """Holds the open connections; strangers are those from which nothing valid has come yet.

    Where a place is needed, the stranger that has been there for the longest time loses its own:
    who has a token, or a whole request, has shown it within moments. Who has shown it keeps its
    place, however slow it is then.
    """

    def __init__(self, max_connections: int) -> None:
        self._max = max_connections
        self._max_strangers = max(1, max_connections - max_connections * RESERVE_PERCENT // 100)
        self.all: set[Connection] = set()
        self._strangers: dict[Connection, float] = {}  # since when; the oldest first

    def make_room(self) -> bool:
        """Returns whether another connection may come; ends that of a stranger if need be."""
        is_full = len(self.all) >= self._max
        if not is_full and len(self._strangers) < self._max_strangers:
            return True
        slow = self._find_slow(is_full)
        if slow is None:
            return not is_full
        slow.give_up()
        self.discard(slow)
        return True

    def _find_slow(self, is_full: bool) -> Connection | None:
        """Returns the oldest stranger that must give way, if there is one.

        A new one keeps its place while there are others, and also where there are none while the
        server has not read yet what it has sent: in a burst many are accepted before one is read,
        and on a busy host it takes long until all are.
        """
        now = time.monotonic()
        for connection, since in islice(self._strangers.items(), MAX_LOOKS):
            age = now - since
            if age > UNREAD_SECONDS:
                return connection
            if (is_full or age > NEW_SECONDS) and not _has_unread(connection.socket):
                return connection
        return None

    def add(self, connection: Connection) -> None:
        """Takes a connection of a stranger."""
        self.all.add(connection)
        self._strangers[connection] = time.monotonic()

    def trust(self, connection: Connection) -> None:
        """Notes that a connection is no stranger's."""
        self._strangers.pop(connection, None)

    def distrust(self, connection: Connection) -> None:
        """Takes a connection for that of a stranger who has just come; an unknown one is fine."""
        if connection in self.all:
            self._strangers[connection] = time.monotonic()

    def discard(self, connection: Connection) -> None:
        """Forgets a connection; an unknown one is fine."""
        self.all.discard(connection)
        self._strangers.pop(connection, None)


def _has_unread(connection: socket.socket) -> bool:
    """Returns whether a client has sent bytes that were not read yet."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


class Lingering:
    """Closes connections so that their clients get to read what was sent last.

    A close with unread bytes of the client would destroy the answer.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close_soon(self, connection: socket.socket) -> None:
        """Ends the sending side now, and closes the connection at the client's end or soon."""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        if len(self._tasks) >= MAX_LINGERING:
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(_drain(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Closes all that lingers."""
        for task in tuple(self._tasks):
            task.cancel()


async def _drain(connection: socket.socket) -> None:
    loop, left = asyncio.get_running_loop(), LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_TIMEOUT):
            while left > 0 and (data := await loop.sock_recv(connection, left)):
                left -= len(data)
            if not left:
                await asyncio.sleep(LINGER_PAUSE)
    except (OSError, TimeoutError):
        return
    finally:
        connection.close()


def set_keepalive(connection: socket.socket) -> None:
    """Lets Linux close connections whose client vanished or does not read its answers."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    connection.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNACKNOWLEDGED_TIMEOUT * 1000)
    )

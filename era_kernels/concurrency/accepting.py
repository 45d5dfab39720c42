"""Accepts connections while there is room for them, and rests for a while where there is none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

MAX_CONNECTIONS_EACH = 64  # of one socket among those that share a limit
LIMITED_AT_ONCE = 2  # connections that such a socket accepts before others have their turn
LIMITED_REST = 0.25  # seconds that such a socket rests, unless there is room before


class Acceptor:
    """Accepts the connections of a listening socket until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        on_connection: Callable[[socket.socket, Any], object],
        max_at_once: int,
        rest_seconds: float,
    ) -> None:
        """Accepts from now on, `max_at_once` connections before others have their turn."""
        listener.setblocking(False)
        self._listener = listener
        self._on_connection = on_connection
        self._max_at_once = max_at_once
        self._rest_seconds = rest_seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.is_closed = False
        self._loop.add_reader(listener, self._accept)

    def has_room(self) -> bool:
        """Returns whether another connection may be accepted."""
        return True

    def rest(self) -> None:
        """Accepts nothing for a while, or until `resume` is called."""
        if self._timer is None and not self.is_closed:
            self._loop.remove_reader(self._listener)
            self._timer = self._loop.call_later(self._rest_seconds, self.resume)

    def resume(self) -> None:
        """Accepts connections again; a call too many does nothing."""
        if self._timer is not None and not self.is_closed:
            self._timer.cancel()
            self._timer = None
            self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accepts no more; the listening socket stays open. A second call is fine."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(self._max_at_once):
            if self.is_closed or self._timer is not None:
                return
            if not self.has_room():
                self.rest()
                return
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it left while it waited
                continue
            except OSError:  # accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM, an error of its network
                self.rest()
                return
            self._on_connection(connection, address)


class ConnectionLimit:
    """Bounds the connections of several sockets together; each may have one all the same."""

    def __init__(self, max_connections: int) -> None:
        self.count = 0
        self.acceptors: set[LimitedAcceptor] = set()
        self._max = max_connections

    @property
    def has_room(self) -> bool:
        """True while all sockets together may have another connection."""
        return self.count < self._max

    def release(self) -> None:
        """Counts a connection no more, and lets those that rest accept another in its place."""
        self.count -= 1
        if self.count == self._max - 1:
            for acceptor in self.acceptors:
                acceptor.resume()


class LimitedAcceptor(Acceptor):
    """Accepts the connections of one of the sockets that share a limit."""

    def __init__(
        self,
        listener: socket.socket,
        on_connection: Callable[[socket.socket, Any], object],
        limit: ConnectionLimit,
        make_room: Callable[[], object] = lambda: None,
    ) -> None:
        """Calls `acquire` for each connection that it keeps; `make_room` may close another."""
        super().__init__(listener, on_connection, LIMITED_AT_ONCE, LIMITED_REST)
        self._limit = limit
        self._make_room = make_room
        self._count = 0
        limit.acceptors.add(self)

    def has_room(self) -> bool:
        """Returns whether another connection may be accepted, after making room if need be."""
        if not self._has_room:
            self._make_room()
        return self._has_room

    def acquire(self) -> None:
        """Counts a connection that was accepted, until `release` is called for it."""
        self._count += 1
        self._limit.count += 1

    def release(self) -> None:
        """Counts a connection no more, and accepts another in its place."""
        self._count -= 1
        self._limit.release()
        self.resume()

    def close(self) -> None:
        """Accepts no more, and closes the listening socket. A second call is fine."""
        super().close()
        self._limit.acceptors.discard(self)
        self._listener.close()

    @property
    def _has_room(self) -> bool:
        return self._count < MAX_CONNECTIONS_EACH and (self._limit.has_room or not self._count)

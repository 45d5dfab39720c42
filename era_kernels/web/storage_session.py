"""Bounds what the code of one session asks of storage at the same time.

So many connections are accepted, the others wait in Linux; so many requests are in work, the others
wait in the order in which they came. What waits or fails is the session's own: requests of others,
and those of the API, take turns with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from tornado.iostream import IOStream, StreamClosedError

from era_kernels.concurrency.accepting import ConnectionLimit, LimitedAcceptor
from era_kernels.models import SessionListener, StorageScope
from era_kernels.web.server import IDLE_TIMEOUT, MAX_BUFFER, READ_CHUNK_BYTES, StrictIOStream

MAX_REQUESTS_IN_WORK = 8
MAX_HEAD = 16 * 1024  # bytes of request line and headers together
STALL_TIMEOUT = 60.0  # seconds without a byte of a body or of an answer
# Connections that have been idle so long (seconds) may be closed when others wait. One that has had
# no request yet may be of a client that is slow to write it.
MIN_IDLE, MIN_IDLE_AT_FIRST = 1.0, 5.0


class SessionHost(Protocol):
    """Names what a session needs of the listener that serves all of them."""

    def serve(self, stream: SessionStream, address: object) -> None:
        """Serves the requests of a connection."""

    def reject(self, reason: str) -> None:
        """Counts a connection that was closed without a request for the application."""

    def forget(self, session: StorageSession) -> None:
        """Serves a session no more."""


class StorageSession:
    """Accepts the connections of one session, and gives its requests their turns."""

    def __init__(
        self,
        host: SessionHost,
        limit: ConnectionLimit,
        listener: SessionListener,
        scope: Callable[[], StorageScope],
    ) -> None:
        """Accepts connections from now on; all sessions share the limit."""
        self.scope = scope
        self._host = host
        self._is_from_session = listener.is_from_session
        self._streams: dict[SessionStream, None] = {}  # the longest idle first
        self._in_work = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._acceptor = LimitedAcceptor(
            listener.socket, self._on_connection, limit, self._close_idle
        )

    def close(self) -> None:
        """Ends all connections and closes the listening socket; a second call does nothing."""
        if self._acceptor.is_closed:
            return
        self._acceptor.close()
        for stream in tuple(self._streams):
            stream.close()
        self._host.forget(self)

    def close_stalled(self, now: float) -> None:
        """Closes connections that are idle too long, and those that neither read nor write."""
        for stream in tuple(self._streams):
            if stream.is_stalled(now):
                stream.close()

    # ------------------------------------------------------------ turns of requests

    async def take_turn(self) -> Turn:
        """Waits until another request of the session may be in work."""
        if self._in_work < MAX_REQUESTS_IN_WORK:
            self._in_work += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn  # whoever gives it on leaves it counted
        return Turn(self._end_turn)

    def _end_turn(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._in_work -= 1

    def stream_is_idle(self, stream: SessionStream) -> None:
        """Notes that of all connections this one has been used last."""
        if stream in self._streams:
            self._streams[stream] = self._streams.pop(stream)

    def stream_closed(self, stream: SessionStream) -> None:
        """Forgets a connection, and accepts another in its place."""
        if stream in self._streams:
            del self._streams[stream]
            self._acceptor.release()

    # ------------------------------------------------------------ connections

    def _on_connection(self, connection: socket.socket, address: object) -> None:
        if self._is_from_session is not None and not self._is_from_session(connection):
            self._host.reject("foreign")
            connection.close()
            return
        self._acceptor.acquire()
        stream = SessionStream(connection, self, self._host.reject)
        self._streams[stream] = None
        self._host.serve(stream, address)

    def _close_idle(self) -> None:
        now = time.monotonic()
        for stream in self._streams:
            if stream.is_idle(now):
                stream.close()
                return


class Turn:
    """Is the turn of one request; it ends when its connection and its handler are done with it.

    A client that leaves does not end the work that it has asked for.
    """

    def __init__(self, on_ended: Callable[[], None]) -> None:
        self._on_ended = on_ended
        self._holders = 1

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps the turn from ending while the context is open."""
        self._holders += 1
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Lets go of the turn, once for each holder."""
        self._holders -= 1
        if not self._holders:
            self._on_ended()


class SessionStream(StrictIOStream):
    """One connection of a session."""

    def __init__(
        self,
        connection: socket.socket,
        session: StorageSession,
        on_rejected: Callable[[str], object],
    ) -> None:
        connection.setblocking(False)
        bare = IOStream(connection, max_buffer_size=MAX_BUFFER, read_chunk_size=READ_CHUNK_BYTES)
        super().__init__(bare, IDLE_TIMEOUT, self._on_stream_closed, on_rejected)
        self.session = self.owner = session
        self._turn: Turn | None = None  # while a request of it is in work
        self._awaits_head = True
        self._min_idle = MIN_IDLE_AT_FIRST
        self._moved_at = time.monotonic()  # when a byte was read or written last

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Returns the head of the next request when it is its turn."""
        self.end_turn()
        self.session.stream_is_idle(self)
        self._awaits_head, self._moved_at = True, time.monotonic()
        head = await super().read_until_regex(regex, max_bytes)
        self._awaits_head, self._min_idle = False, MIN_IDLE
        self._turn = await self.session.take_turn()
        # One that is refused is answered within this round of the loop, and would give its turn on
        # within it, too: all connections of the session would have theirs before anybody else.
        await asyncio.sleep(0)
        if self.closed():
            self.end_turn()
            raise StreamClosedError
        self._moved_at = time.monotonic()
        return head

    def hold_turn(self) -> AbstractContextManager[None]:
        """Returns a context that surrounds the work on the request."""
        return nullcontext() if self._turn is None else self._turn.hold()

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        count = super().read_from_fd(buf)
        if count and not self._awaits_head:
            self._moved_at = time.monotonic()
        return count

    def write_to_fd(self, data: memoryview) -> int:
        count = super().write_to_fd(data)
        if count:
            self._moved_at = time.monotonic()
        return count

    def is_idle(self, now: float) -> bool:
        """Returns whether the client has asked for nothing since a while."""
        if not self._awaits_head or now - self._moved_at < self._min_idle:
            return False
        with contextlib.suppress(BlockingIOError, OSError):
            return not self.socket.recv(1, socket.MSG_PEEK)  # what has come is a request
        return True

    def is_stalled(self, now: float) -> bool:
        """Returns whether the client stops within a body, or does not read its answer."""
        is_silent = not self._awaits_head and now - self._moved_at > STALL_TIMEOUT
        return is_silent and (self.writing() or self.reading())

    def _on_stream_closed(self, _: object) -> None:
        self.session.stream_closed(self)

    def end_turn(self) -> None:
        """Lets go of the turn: no request of this connection will be given to a handler.

        A stream that closes does not do so yet: its request may be on its way to the handler.
        """
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

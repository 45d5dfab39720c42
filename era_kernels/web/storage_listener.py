"""Serves storage, and nothing else, to the code inside sessions.

Each session has a listening socket that only its own code can reach, so the socket tells who asks,
and no token is needed. What one session asks must not keep others waiting: `web/storage_session.py`
bounds the connections and the requests of each.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest

from era_kernels.concurrency.accepting import ConnectionLimit
from era_kernels.errors import OutsideStorageScope
from era_kernels.models import SessionListener, StorageScope
from era_kernels.web.access import Access, Caller
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.connection_limit import Lingering
from era_kernels.web.routes import make_storage_application
from era_kernels.web.server import MAX_CONNECTIONS, READ_CHUNK_BYTES
from era_kernels.web.storage_session import MAX_HEAD, SessionStream, StorageSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from era_kernels.web.operations import Route

BODY_TIMEOUT = 300.0  # seconds for a body
MAX_LARGE_BODIES = 2  # of all sessions, beside those of the API
CHECK_INTERVAL = 5.0  # seconds between two looks for connections that do nothing
_STORAGE_PATH = "/api/storage/"


class StorageListener:
    """Serves the storage routes on the listening sockets of sessions."""

    def __init__(
        self,
        routes: Sequence[Route],
        context: HandlerContext,
        max_connections: int = MAX_CONNECTIONS,
        *,
        body_timeout: float = BODY_TIMEOUT,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        """Takes the context of the API's handlers; connections of all sessions share the maximum.

        A session has one connection all the same when there are as many. Times are in seconds.
        """
        own_context = dataclasses.replace(
            context,
            access=_SessionAccess(),
            active_handlers=set(),
            in_work=_in_work,
            large_bodies=asyncio.Semaphore(MAX_LARGE_BODIES),
        )
        self._on_rejected = context.metrics.connection_rejected
        self._server = _SessionServer(
            make_storage_application(routes, own_context),
            max_body_size=context.max_body,
            chunk_size=READ_CHUNK_BYTES,
            max_header_size=MAX_HEAD,
            body_timeout=body_timeout,
        )
        # Streams bound the time of a head themselves, and a request may wait for its turn.
        self._server.conn_params.header_timeout = None
        self._connections = ConnectionLimit(max_connections)
        self._check_interval = check_interval
        self._check_timer: asyncio.TimerHandle | None = None
        self._sessions: set[StorageSession] = set()
        self._after_answers = Lingering()
        self._chunk_turns = context.chunk_turns

    def attach(
        self, listener: SessionListener, scope: Callable[[], StorageScope]
    ) -> StorageSession:
        """Serves one session from now on, until its `close` is called, which closes the socket.

        `scope` returns what the session may use at that moment.
        """
        session = StorageSession(self, self._connections, listener, scope)
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        """Ends the connections of all sessions; a second call is fine."""
        for session in tuple(self._sessions):
            session.close()
        self._after_answers.cancel()
        await self._server.close_all_connections()

    # ------------------------------------------------------------ for the sessions

    def serve(self, stream: SessionStream, address: object) -> None:
        """Serves the requests of a connection that a session has accepted."""
        stream.close_politely = self._after_answers.close_soon
        stream.chunk_turns = self._chunk_turns
        self._server.handle_stream(stream, (address,))
        if self._check_timer is None:
            self._schedule_check()

    def reject(self, reason: str) -> None:
        """Counts a connection that was closed without a request for the application."""
        self._on_rejected(reason)

    def forget(self, session: StorageSession) -> None:
        """Serves a session no more."""
        self._sessions.discard(session)

    def _schedule_check(self) -> None:
        loop = asyncio.get_running_loop()
        self._check_timer = loop.call_later(self._check_interval, self._check_stalled)

    def _check_stalled(self) -> None:
        self._check_timer = None
        now = time.monotonic()
        for session in tuple(self._sessions):
            session.close_stalled(now)
        if self._connections.count:
            self._schedule_check()


class _SessionServer(HTTPServer):
    """Serves connections of sessions, and ends the turn of each with its last request."""

    def on_close(self, server_conn: object) -> None:
        """Is called when no request of the connection will be read or handled any more."""
        super().on_close(server_conn)
        stream = cast(HTTP1ServerConnection, server_conn).stream
        cast(SessionStream, stream).end_turn()


class _SessionAccess(Access):
    """Admits the requests of sessions within their scopes; Host and Origin as on the main port."""

    def check(self, request: HTTPServerRequest, *, requires_token: bool) -> Caller:
        """Returns who asks, which is the session. Raises OutsideStorageScope, Forbidden."""
        caller = super().check(request, requires_token=False)
        type_and_rest = request.path.removeprefix(_STORAGE_PATH).split("/")
        if not request.path.startswith(_STORAGE_PATH) or len(type_and_rest) < 2:
            return caller  # there is nothing but 404
        namespace = unquote(type_and_rest[1])
        if not _stream(request).session.scope().allows(namespace):
            raise OutsideStorageScope(
                f"This session may not use the namespace {namespace[:64]}.",
                hint="Its `storage` says which it may use; PATCH on the session changes that.",
            )
        return caller


def _stream(request: HTTPServerRequest) -> SessionStream:
    stream = request.connection.stream  # type: ignore[union-attr]
    assert isinstance(stream, SessionStream)
    return stream


def _in_work(request: HTTPServerRequest) -> AbstractContextManager[None]:
    return _stream(request).hold_turn()

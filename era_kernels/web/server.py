"""Listens for connections, with time limits for slow clients and rejections in JSON."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, cast

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream, UnsatisfiableReadError
from tornado.web import Application

from era_kernels.concurrency.turns import Turns
from era_kernels.errors import AtCapacity, EraError, InvalidRequest, StartError
from era_kernels.web import ambiguous_heads
from era_kernels.web.answer_handler import SERVER, encode_error
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.chunked_bodies import ChunkedIOStream
from era_kernels.web.connection_limit import Connections, Lingering, set_keepalive
from era_kernels.web.reserving_acceptor import FileReserve, ReservingAcceptor

BACKLOG = 512  # connections that wait to be accepted
READ_CHUNK_BYTES = 64 * 1024
MAX_HEADER = 64 * 1024  # bytes of request line and headers together
MAX_BUFFER = 1024 * 1024  # bytes that a client may send ahead of what the server reads
IDLE_TIMEOUT = 75.0  # seconds from an answer to the end of the next headers
STRANGER_TIMEOUT = 10.0  # seconds for the same where nothing valid has come yet
BODY_TIMEOUT = 300.0  # seconds for a body
MAX_CONNECTIONS = 1000
MAX_LINGERING = 64  # connections over the limit that may get a rejection at the same time
LINGER_TIMEOUT = 1.0  # seconds that a rejected client has to read the rejection
RETRY_AFTER_SECONDS = 1  # seconds that a rejected client should wait
CLOSE_TIMEOUT = 5.0  # seconds for answers that are under way when the server closes

# The bytes that Tornado 6 itself writes to reject a request (http1connection.py).
_TORNADO_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class WebServer:
    """Serves an application on a port."""

    def __init__(self, server: LimitedHTTPServer, context: HandlerContext, url: str) -> None:
        self._server = server
        self._context = context
        self.url = url

    @classmethod
    def open(
        cls,
        application: Application,
        context: HandlerContext,
        host: str,
        port: int,
        max_connections: int = MAX_CONNECTIONS,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        body_timeout: float = BODY_TIMEOUT,
        sockets: list[socket.socket] | None = None,
    ) -> WebServer:
        """Starts to listen; port 0 is any free port. Timeouts are in seconds.

        `sockets` are those of `bound_sockets`, where that was called before. Raises StartError
        when the server cannot listen there.
        """
        with _bind_errors(host, port):
            sockets = _bind_sockets(host, port) if sockets is None else sockets
            for listener in sockets:
                listener.listen(BACKLOG)
        server = LimitedHTTPServer(
            application,
            max_body_size=context.max_body,
            chunk_size=READ_CHUNK_BYTES,
            max_header_size=MAX_HEADER,
            max_buffer_size=MAX_BUFFER,
            idle_timeout=idle_timeout,
            body_timeout=body_timeout,
            max_connections=max_connections,
            on_rejected=context.metrics.connection_rejected,
            chunk_turns=context.chunk_turns,
        )
        server.add_sockets(sockets)
        return cls(server, context, _url(host, sockets[0].getsockname()[1]))

    @property
    def connections(self) -> int:
        """The number of connections that are open."""
        return len(self._server.connections)

    def stop(self) -> None:
        """Stops accepting new connections; open ones go on."""
        self._server.stop()

    async def aclose(self) -> None:
        """Closes every connection, after answers under way were sent. A second call is fine."""
        self._server.stop()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        # Nothing reports that Linux took the last bytes of an answer: hence the polling.
        while (  # noqa: ASYNC110
            self._context.active_handlers or self._server.is_writing
        ) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._server.close_all_connections()


class LimitedHTTPServer(HTTPServer):
    """Tornado's server, with limits that the kernel enforces and with rejections in JSON.

    `on_rejected` is called with the reason when a connection is closed without a request for the
    application.
    """

    def initialize(  # type: ignore[override]
        self,
        application: Application,
        *,
        idle_timeout: float,
        max_connections: int,
        on_rejected: Callable[[str], object],
        chunk_turns: Turns,
        **kwargs: Any,
    ) -> None:
        super().initialize(application, **kwargs)
        # A connection has a timer of its own: that of Tornado costs a tenth of a short request.
        self.conn_params.header_timeout = None
        self._idle_timeout = idle_timeout
        self._places = Connections(max_connections)
        self._after_answers = Lingering()
        self._on_rejected, self._chunk_turns = on_rejected, chunk_turns
        self._lingering: set[asyncio.Task[None]] = set()
        self._reserve = FileReserve()

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        for listener in sockets:
            self._sockets[listener.fileno()] = listener
            acceptor = ReservingAcceptor(listener, self._handle_connection, self._reserve)
            self._handlers[listener.fileno()] = acceptor.close

    @property
    def connections(self) -> set[StrictIOStream]:
        """The connections that are open."""
        return cast("set[StrictIOStream]", self._places.all)

    @property
    def is_writing(self) -> bool:
        """True while Linux has not taken all bytes that were written."""
        return any(connection.writing() for connection in self.connections)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self._reserve.holds(stream.socket) or not self._places.make_room():
            self._reject(stream)
            return
        set_keepalive(stream.socket)
        connection = StrictIOStream(
            stream, self._idle_timeout, self._places.discard, self._on_rejected
        )
        connection.on_trusted, connection.on_distrusted = self._places.trust, self._places.distrust
        connection.close_politely = self._after_answers.close_soon
        connection.chunk_turns = self._chunk_turns
        self._places.add(connection)
        super().handle_stream(connection, address)

    def _reject(self, stream: IOStream) -> None:
        """Rejects a connection over the limit, silently when MAX_LINGERING are being rejected."""
        self._on_rejected("connections")
        if len(self._lingering) >= MAX_LINGERING:
            stream.close()
            return
        task = asyncio.create_task(
            _send_rejection(stream, _too_many_response(len(self.connections)))
        )
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def close_all_connections(self) -> None:
        for task in tuple(self._lingering):
            task.cancel()
        self._after_answers.cancel()
        await super().close_all_connections()


class StrictIOStream(ChunkedIOStream):
    """A connection that takes strict HTTP only and rejects anything else in JSON."""

    def __init__(
        self,
        stream: IOStream,
        idle_timeout: float,
        on_closed: Callable[[StrictIOStream], object],
        on_rejected: Callable[[str], object],
    ) -> None:
        super().__init__(
            stream.socket,
            max_buffer_size=stream.max_buffer_size,
            read_chunk_size=stream.read_chunk_size,
        )
        self._idle_timeout = idle_timeout
        self._on_closed = on_closed
        self._on_rejected = on_rejected
        self._has_responded = False
        self._is_trusted = False
        self._lingers = False
        self.owner: object = None  # see `Client`
        self.on_trusted: Callable[[StrictIOStream], object] = _ignore
        self.on_distrusted: Callable[[StrictIOStream], object] = _ignore
        self.close_politely: Callable[[socket.socket], object] = socket.socket.close

    def trust(self) -> bool:
        """Keeps the client's place, see `Client`; returns whether it was a stranger until now."""
        was_stranger, self._is_trusted = not self._is_trusted, True
        if was_stranger:
            self.on_trusted(self)
        return was_stranger

    def distrust(self) -> None:
        """Makes the client a stranger again, see `Client`."""
        self._is_trusted = False
        self.on_distrusted(self)

    def linger(self) -> None:
        """Lets the client read its answer before the close, though it has sent what is not read."""
        self._lingers = True

    def give_up(self) -> None:
        """Ends the connection of a client that sends too slowly, for another needs its place."""
        self._on_rejected("connections")
        self.close()

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Returns the head of the next request; closes the connection if it takes too long.

        Raises HTTPInputError when the head is ambiguous.
        """
        self._has_responded = False
        patience = self._idle_timeout
        if not self._is_trusted:
            patience = min(patience, STRANGER_TIMEOUT)
        timer = asyncio.get_running_loop().call_later(patience, self.close)
        try:
            head = await super().read_until_regex(regex, max_bytes)
        finally:
            timer.cancel()
        if ambiguous_heads.is_ambiguous(head):
            raise HTTPInputError("ambiguous request")
        return head

    def write(self, data: bytes | memoryview) -> Any:
        if data != _TORNADO_BAD_REQUEST:
            self._has_responded = True
            return super().write(data)
        self._on_rejected("malformed")
        # A client that got an answer to the head gets no second answer to the body.
        return super().write(b"" if self._has_responded else _malformed_response())

    def close(
        self,
        exc_info: bool
        | BaseException
        | tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
        | None = False,
    ) -> None:
        # Headers over MAX_HEADER: Tornado closes the connection without an answer.
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            self._write_rejection()
        self._on_closed(self)
        if self._lingers and not self.closed():
            with suppress(OSError):  # no descriptor is left
                self.close_politely(self.socket.dup())
        super().close(exc_info)

    def _write_rejection(self) -> None:
        self._on_rejected("malformed")
        try:
            self.socket.send(_malformed_response())
        except OSError:
            return  # the client left; it is being closed anyway


async def _send_rejection(stream: IOStream, response: bytes) -> None:
    """Sends a rejection and waits until the client read it.

    A close with unread bytes of the client would destroy the answer.
    """
    try:
        async with asyncio.timeout(LINGER_TIMEOUT):
            await stream.write(response)
            stream.socket.shutdown(socket.SHUT_WR)
            for _ in range(2):
                await stream.read_bytes(READ_CHUNK_BYTES, partial=True)
    except (OSError, TimeoutError):  # StreamClosedError is an OSError
        return
    finally:
        stream.close()


@contextmanager
def bound_sockets(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Gives sockets that are bound and do not listen yet, and closes them at the end.

    So a start learns early that a port is taken, and clients are refused until it can answer them.
    Raises StartError.
    """
    with _bind_errors(host, port):
        sockets = _bind_sockets(host, port)
    try:
        yield sockets
    finally:
        for listener in sockets:
            listener.close()


@contextmanager
def _bind_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"The server cannot listen on {host} port {port}: {_bind_error_text(error)}. "
            "Choose another with --host and --port."
        ) from error


def _ignore(_: object) -> None:
    """Does nothing: the places of some connections are counted elsewhere."""


def _bind_sockets(host: str, port: int) -> list[socket.socket]:
    """Returns a bound socket for every address of a host name, all on one port."""
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            bound_port = port or (sockets[0].getsockname()[1] if sockets else 0)
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sockets.append(listener)
            if port:  # else two servers that do not listen yet might get the same free port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], bound_port))
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def _bind_error_text(error: OSError | UnicodeError) -> str:
    """Returns the reason why the server cannot listen, as a phrase for people."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the address is in use"
    return getattr(error, "strerror", None) or str(error)


def _malformed_response() -> bytes:
    return _error_bytes(InvalidRequest("The request is no HTTP that this server understands."))


def _too_many_response(count: int) -> bytes:
    return _error_bytes(
        AtCapacity(
            f"All {count} connections that this server takes are in use.",
            hint="Try again, or raise max_connections and the number of open files (ulimit -n).",
            retry_after=RETRY_AFTER_SECONDS,
        )
    )


def _error_bytes(error: EraError) -> bytes:
    """Returns the bytes of a whole HTTP answer, for requests that have no handler."""
    body = encode_error(error)
    retry = f"Retry-After: {error.retry_after}\r\n" if error.retry_after else ""
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        f"Server: {SERVER}\r\n{retry}"
        f"X-Request-Id: req-{secrets.token_hex(8)}\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

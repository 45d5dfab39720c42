"""The listening server: patience with slow clients is bounded, refusals are JSON."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream, UnsatisfiableReadError
from tornado.web import Application

from era_kernels import json_codec
from era_kernels.errors import Capacity, EraError, InvalidRequest, StartError
from era_kernels.web import heads
from era_kernels.web.base import SERVER, Edge, error_object

CHUNK = 64 * 1024  # bytes that are read at once
MAX_HEADER = 64 * 1024  # bytes of request line and headers together
MAX_BUFFER = 1024 * 1024  # bytes that a client may send before anybody asked for them
IDLE_TIMEOUT = 75.0  # seconds from an answer (or the connection) to the end of the next headers
BODY_TIMEOUT = 300.0  # seconds for a body
MAX_CONNECTIONS = 1000
LINGERING = 64  # connections beyond the cap that are turned away in words at once
LINGER = 1.0  # seconds until who was turned away must have read that
RETRY_AFTER = 1  # seconds that a client waits that was turned away
LAST_WORDS = 5.0  # seconds for answers that are under way when the server closes
DEAD_AFTER = 120.0  # seconds that a client may leave what was sent to it unacknowledged

_TORNADOS_REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class WebServer:
    """An application on a port."""

    def __init__(self, server: PatientServer, edge: Edge, url: str) -> None:
        self._server = server
        self._edge = edge
        self.url = url

    @classmethod
    def open(
        cls,
        application: Application,
        edge: Edge,
        host: str,
        port: int,
        max_connections: int = MAX_CONNECTIONS,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        body_timeout: float = BODY_TIMEOUT,
    ) -> WebServer:
        """Listen; port 0 is any free one. Timeouts in seconds.

        Raises StartError when it cannot.
        """
        try:
            sockets = _listening(host, port)
        except (OSError, UnicodeError) as problem:
            raise StartError(
                f"The server cannot listen on {host} port {port}: {_why(problem)}. "
                "Choose another with --host and --port."
            ) from problem
        server = PatientServer(
            application,
            max_body_size=edge.max_body,
            chunk_size=CHUNK,
            max_header_size=MAX_HEADER,
            max_buffer_size=MAX_BUFFER,
            idle_connection_timeout=idle_timeout,
            body_timeout=body_timeout,
            max_connections=max_connections,
            turned_away=edge.meters.connection_rejected,
        )
        server.add_sockets(sockets)
        return cls(server, edge, _url(host, sockets[0].getsockname()[1]))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.wires)

    def stop(self) -> None:
        """Take no new connections; those that are open go on."""
        self._server.stop()

    async def aclose(self) -> None:
        """Close every connection, after what is under way was said. A second call is fine."""
        self._server.stop()
        limit = time.monotonic() + LAST_WORDS
        # The system does not tell when it took what was said: hence the looking again.
        while (self._edge.waiting or self._server.writing) and time.monotonic() < limit:
            await asyncio.sleep(0.01)
        await self._server.close_all_connections()


class PatientServer(HTTPServer):
    """Tornado's server, with limits that the kernel enforces and with JSON refusals.

    `turned_away` is told why a connection was closed that had no request for the application.
    """

    def initialize(  # type: ignore[override]
        self,
        application: Application,
        *,
        max_connections: int,
        turned_away: Callable[[str], object],
        **kwargs: Any,
    ) -> None:
        super().initialize(application, **kwargs)
        self.wires: set[Wire] = set()
        self._max_connections = max_connections
        self._turned_away = turned_away
        self._lingering: set[asyncio.Task[None]] = set()

    @property
    def writing(self) -> bool:
        """Something that was said has not been taken by the system yet."""
        return any(wire.writing() for wire in self.wires)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self.wires) >= self._max_connections:
            self._turn_away(stream)
            return
        _watch(stream.socket)
        wire = Wire(stream, self.wires.discard, self._turned_away)
        self.wires.add(wire)
        super().handle_stream(wire, address)

    def _turn_away(self, stream: IOStream) -> None:
        """Say that there are too many, if there are not too many to say it to."""
        self._turned_away("connections")
        if len(self._lingering) >= LINGERING:
            stream.close()
            return
        task = asyncio.create_task(_refused(stream, _too_many(self._max_connections)))
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def close_all_connections(self) -> None:
        for task in tuple(self._lingering):
            task.cancel()
        await super().close_all_connections()


class Wire(IOStream):
    """A connection that takes strict HTTP only, and says so in JSON like every other error."""

    def __init__(
        self,
        stream: IOStream,
        gone: Callable[[Wire], object],
        turned_away: Callable[[str], object],
    ) -> None:
        super().__init__(
            stream.socket,
            max_buffer_size=stream.max_buffer_size,
            read_chunk_size=stream.read_chunk_size,
        )
        self._gone = gone
        self._turned_away = turned_away
        self._answering = False

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """The head of the next request. Raises HTTPInputError when it is ambiguous."""
        self._answering = False
        head = await super().read_until_regex(regex, max_bytes)
        if heads.is_ambiguous(head):
            raise HTTPInputError("ambiguous request")
        return head

    def write(self, data: bytes | memoryview) -> Any:
        if data != _TORNADOS_REFUSAL:
            self._answering = True
            return super().write(data)
        self._turned_away("malformed")
        # Who got an answer to the head gets no second one to the body.
        return super().write(b"" if self._answering else _malformed())

    def close(
        self,
        exc_info: bool
        | BaseException
        | tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
        | None = False,
    ) -> None:
        # Headers beyond MAX_HEADER: Tornado closes without a word.
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            self._write_refusal()
        self._gone(self)
        super().close(exc_info)

    def _write_refusal(self) -> None:
        self._turned_away("malformed")
        try:
            self.socket.send(_malformed())
        except OSError:
            return  # the client left; it is being closed anyway


async def _refused(stream: IOStream, refusal: bytes) -> None:
    """Let the client read why: a close beside what it has sent would destroy the answer."""
    try:
        async with asyncio.timeout(LINGER):
            await stream.write(refusal)
            stream.socket.shutdown(socket.SHUT_WR)
            for _ in range(2):
                await stream.read_bytes(CHUNK, partial=True)
    except (OSError, TimeoutError):  # StreamClosedError is an OSError
        return
    finally:
        stream.close()


def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket for every address of a host name, all on one port."""
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
            sockets.append(socket.create_server((address[0], chosen), family=family, backlog=512))
            sockets[-1].setblocking(False)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def _why(problem: OSError | UnicodeError) -> str:
    """Why there is no listening there, in the words of people."""
    if isinstance(problem, OSError) and problem.errno == errno.EADDRINUSE:
        return "the address is in use"
    return getattr(problem, "strerror", None) or str(problem)


def _malformed() -> bytes:
    return _refusal(InvalidRequest("The request is no HTTP that this server understands."))


def _too_many(most: int) -> bytes:
    return _refusal(
        Capacity(
            f"All {most} connections that this server takes are in use.",
            hint="Try again, or raise max_connections.",
            retry_after=RETRY_AFTER,
        )
    )


def _refusal(problem: EraError) -> bytes:
    """A whole answer, where there is no handler to make it."""
    body = json_codec.dumps(error_object(problem))
    retry = f"Retry-After: {problem.retry_after}\r\n" if problem.retry_after else ""
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        f"Server: {SERVER}\r\n{retry}"
        f"X-Request-Id: req-{secrets.token_hex(8)}\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _watch(connection: socket.socket) -> None:
    """Let the kernel find clients that vanished, or that read nothing of what they asked for."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_AFTER * 1000))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

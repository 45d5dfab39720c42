"""The listening server: patience with slow clients is bounded, refusals are JSON."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from types import TracebackType
from typing import Any
from weakref import WeakSet

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, UnsatisfiableReadError
from tornado.web import Application

from era_kernels.errors import InvalidRequest, StartError
from era_kernels.web import json_text
from era_kernels.web.base import SERVER, Edge, error_object

CHUNK = 64 * 1024  # bytes that are read at once
MAX_HEADER = 64 * 1024  # bytes of request line and headers together
MAX_BUFFER = 1024 * 1024  # bytes that a client may send before anybody asked for them
IDLE_TIMEOUT = 75.0  # seconds from an answer (or the connection) to the end of the next headers
BODY_TIMEOUT = 300.0  # seconds for a body
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
                f"The server cannot listen on {host} port {port}: {problem}. "
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
        )
        server.add_sockets(sockets)
        return cls(server, edge, _url(host, sockets[0].getsockname()[1]))

    def stop(self) -> None:
        """Take no new connections; those that are open go on."""
        self._server.stop()

    async def aclose(self) -> None:
        """Close every connection, after what is under way was said. A second call is fine."""
        self._server.stop()
        limit = time.monotonic() + LAST_WORDS
        # The system does not tell when it took what was said: hence the looking again.
        while (self._edge.waiting or self._server.writing) and time.monotonic() < limit:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self._server.close_all_connections()


class PatientServer(HTTPServer):
    """Tornado's server, with limits that the kernel enforces and with JSON refusals."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._wires: WeakSet[Wire] = WeakSet()

    @property
    def writing(self) -> bool:
        """Something that was said has not been taken by the system yet."""
        return any(wire.writing() for wire in self._wires)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        _watch(stream.socket)
        wire = Wire(
            stream.socket,
            max_buffer_size=stream.max_buffer_size,
            read_chunk_size=stream.read_chunk_size,
        )
        self._wires.add(wire)
        super().handle_stream(wire, address)


class Wire(IOStream):
    """A connection whose refusal of malformed HTTP has a body like every other error."""

    def write(self, data: bytes | memoryview) -> Any:
        return super().write(_refusal() if data == _TORNADOS_REFUSAL else data)

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
        super().close(exc_info)

    def _write_refusal(self) -> None:
        try:
            self.socket.send(_refusal())
        except OSError:
            return  # the client left; it is being closed anyway


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


def _refusal() -> bytes:
    problem = InvalidRequest("The request is no HTTP that this server understands.")
    body = json_text.encode(error_object(problem))
    head = (
        "HTTP/1.1 400 Bad Request\r\n"
        f"Server: {SERVER}\r\n"
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

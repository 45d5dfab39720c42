"""A connection to a program that listens in a session, for one HTTP request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress

import h11
from tornado.iostream import IOStream, StreamClosedError

from era_kernels.errors import BadGateway, InvalidRequest
from era_kernels.web import proxy_headers
from era_kernels.web.proxy_headers import Headers

READ_BYTES = 64 * 1024  # that are read at once
MAX_HEAD = 256 * 1024  # bytes of the head of an answer, with those of answers 1xx before it
MAX_FIELDS = 1000  # headers of an answer
MAX_AT_ONCE = 64  # pieces of a body that are parsed before others have their turn
MAX_INFORMATIONAL = 32  # answers 1xx before the answer
_SWITCHED = 101


class Upstream:
    """Sends one request and receives one answer; h11 parses what the program says.

    A connection serves one request, so that nothing of an answer can be taken for that of another.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.stream = IOStream(connection, read_chunk_size=READ_BYTES)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._head_bytes = 0  # that were read while the head was not complete
        self.trailers: Headers = []  # that came behind the body
        self.has_head = False  # the answer has begun
        self.has_ended = False  # the whole answer is there

    async def send_head(self, method: str, target: str, headers: Headers) -> None:
        """Sends the head of the request. Raises InvalidRequest, BadGateway."""
        try:
            request = h11.Request(
                method=method, target=target, headers=list(proxy_headers.encode(headers))
            )
            data = self._http.send(request)
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise InvalidRequest("The head of the request cannot be passed on.") from error
        try:
            await self.stream.write(data or b"")
        except StreamClosedError as error:
            raise _closed() from error

    async def send_body(self, chunk: bytes) -> bool:
        """Sends a part of the body; returns False when the program takes no more of it."""
        return await self._send(h11.Data(data=chunk))

    async def end_body(self) -> bool:
        """Ends the request; returns False when the program had closed the connection before."""
        return await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> bool:
        try:
            for data in self._http.send_with_data_passthrough(event) or ():
                if data:
                    await self.stream.write(data)
        except (StreamClosedError, h11.LocalProtocolError):
            return False
        return True

    async def read_head(self) -> tuple[int, str, Headers]:
        """Returns status, reason and headers; 101 is there where it was asked for only.

        Raises BadGateway.
        """
        for _ in range(MAX_INFORMATIONAL):
            event = await self._next_event()
            if isinstance(event, h11.Response | h11.InformationalResponse) and (
                event.status_code >= 200 or event.status_code == _SWITCHED
            ):
                if len(event.headers) > MAX_FIELDS:
                    raise BadGateway(f"The program's answer has more than {MAX_FIELDS} headers.")
                headers = [
                    (name.decode("latin1"), value.decode("latin1"))
                    for name, value in event.headers.raw_items()
                ]
                self.has_head = True
                return event.status_code, event.reason.decode("latin1"), headers
        raise BadGateway("The program that listens on the port answered no HTTP.")

    def take_received_body(self) -> bytes:
        """Returns what has come of the body already; faults in it are left to `body`."""
        parts = []
        with suppress(h11.RemoteProtocolError):
            for _ in range(MAX_AT_ONCE):
                event = self._http.next_event()
                if isinstance(event, h11.EndOfMessage):
                    self._end(event)
                if not isinstance(event, h11.Data):
                    break
                parts.append(event.data)
        return b"".join(parts)

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yields the body as it comes. Raises BadGateway when it is cut short.

        Others have their turn after each piece: nothing here waits while there is more to read.
        Small chunks that came together are one piece.
        """
        while not self.has_ended:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data) + self.take_received_body()
                await asyncio.sleep(0)
            elif isinstance(event, h11.EndOfMessage):
                self._end(event)

    def _end(self, event: h11.EndOfMessage) -> None:
        self.has_ended = True
        self.trailers = [
            (name.decode("latin1"), value.decode("latin1"))
            for name, value in event.headers.raw_items()
        ]

    async def _next_event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._read()
                if not self.has_head:
                    await self._count_head(data)
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            if self._http.trailing_data[1]:
                raise _closed() from error
            raise BadGateway("The program that listens on the port answered no HTTP.") from error
        return event

    async def _count_head(self, data: bytes) -> None:
        """Bounds what is parsed before the answer begins, and lets others have their turn.

        Raises BadGateway.
        """
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD + READ_BYTES:  # the last piece may have some of the body
            raise BadGateway(f"The head of the answer has more than {MAX_HEAD >> 10} KiB.")
        await asyncio.sleep(0)

    async def _read(self) -> bytes:
        """Returns what came, empty at the end. Raises BadGateway when the connection broke."""
        try:
            return await self.stream.read_bytes(READ_BYTES, partial=True)
        except StreamClosedError as error:
            if error.real_error is not None:
                raise _closed() from error
            return b""

    def take_rest(self) -> bytes:
        """Returns what came behind a head with 101: it belongs to the other protocol."""
        return self._http.trailing_data[0]

    def close(self) -> None:
        """Closes the connection; a second call is fine."""
        self.stream.close()


def _closed() -> BadGateway:
    return BadGateway("The program that listens on the port closed the connection too early.")

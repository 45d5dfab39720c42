"""Serves one connection of a program to the proxy: one request, or one tunnel."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

import h11

from era_kernels.egress.connector import Outcome, Refused
from era_kernels.egress.http_side import (
    HttpSide,
    read_request,
    refuse,
    relay_body,
    relay_response,
)
from era_kernels.egress.requests import Target, read_target
from era_kernels.egress.streams import cancel_all, drain, join, receive, reset_on_close, send
from era_kernels.models.internet import InternetAccess

HEAD_TIMEOUT = 10.0  # seconds for a whole head
IDLE_TIMEOUT = 600.0  # seconds without a byte in either direction
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Session(Protocol):
    """Names what a connection needs of the session whose program has made it."""

    @property
    def access(self) -> InternetAccess:
        """What the session may reach at this moment."""

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connection to a host. Raises Refused."""

    def count(self, outcome: Outcome) -> None:
        """Counts how a request went."""


class ProxyConnection:
    """Reads one request, checks it, and passes bytes on both ways until either end has closed."""

    def __init__(self, connection: socket.socket, session: Session) -> None:
        self.host: str | None = None  # where it leads, once that is known
        self._program = connection
        self._server: socket.socket | None = None
        self._session = session
        self._limit = asyncio.timeout(HEAD_TIMEOUT)

    async def run(self) -> None:
        """Serves the connection, and closes it in every case; a cancelled one is cut off."""
        try:
            await self._serve()
        except (OSError, h11.ProtocolError, TimeoutError):
            self._cut()  # within an answer, or before there was a request
        except asyncio.CancelledError:
            self._cut()
            raise
        finally:
            self._program.close()
            if self._server is not None:
                self._server.close()

    async def _serve(self) -> None:
        program = HttpSide(self._program, h11.SERVER)
        try:
            async with self._limit:
                target, request = await self._read(program)
                self._limit.reschedule(None)  # connecting has a deadline of its own
                self._server = await self._session.connect(target.host, target.port)
                self._check(target.host)  # it may have been changed meanwhile
                self._session.count(Outcome.CONNECTED)
                self._on_moved()
                await self._pass_on(program, target, request)
        except Refused as refused:
            self._session.count(refused.outcome)
            await self._refuse(program, refused)
        except TimeoutError:
            if self.host is not None:
                raise
            self._session.count(Outcome.SLOW)
            late = Refused(408, "The request was not complete in time.", Outcome.SLOW)
            await self._refuse(program, late)

    async def _read(self, program: HttpSide) -> tuple[Target, h11.Request]:
        """Returns where a request leads, if the session may go there. Raises Refused."""
        request = await read_request(program)
        target = read_target(request)
        self.host = target.host
        self._check(target.host)
        return target, request

    def _check(self, host: str) -> None:
        access = self._session.access
        if not access.is_on:
            message = "This session has no internet access (allowInternetAccess is false)."
            raise Refused(403, message, Outcome.OFF)
        if not access.allows(host):
            message = f"{host} is not among the hosts that this session may reach (allow_hosts)."
            raise Refused(403, message, Outcome.HOST)

    async def _pass_on(self, program: HttpSide, target: Target, request: h11.Request) -> None:
        assert self._server is not None
        if target.head is not None:
            await self._forward(program, HttpSide(self._server, h11.CLIENT), target.head)
            return
        early = program.early_bytes
        await send(self._program, _ESTABLISHED)
        if early:
            await send(self._server, early)
        await join(self._program, self._server, self._on_moved)

    async def _forward(self, program: HttpSide, server: HttpSide, head: h11.Request) -> None:
        """Passes on a request and its answer; a server may answer before it has read all."""
        program.on_moved = server.on_moved = self._on_moved
        upload = asyncio.create_task(_upload(program, server, head))
        download = asyncio.create_task(relay_response(server, program))
        try:
            await asyncio.wait({upload, download}, return_when=asyncio.FIRST_COMPLETED)
            if not download.done() and not server.is_broken:
                upload.result()
            await download
        except (OSError, h11.RemoteProtocolError):
            if program.has_answered or upload.done():
                raise
            message = f"{self.host} closed the connection without an answer."
            raise Refused(502, message, Outcome.FAILED) from None
        finally:
            await cancel_all({upload, download})
        await drain(self._program)

    async def _refuse(self, program: HttpSide, refused: Refused) -> None:
        async with asyncio.timeout(HEAD_TIMEOUT):
            await refuse(program, refused)
            await drain(self._program)

    def _on_moved(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + IDLE_TIMEOUT)

    def _cut(self) -> None:
        """Lets both ends see that the connection broke."""
        for connection in (self._program, self._server):
            if connection is not None:
                with suppress(OSError):
                    reset_on_close(connection)


async def _upload(program: HttpSide, server: HttpSide, head: h11.Request) -> None:
    """Sends a request, and raises OSError when its sender says more or leaves."""
    await server.send(head)
    await relay_body(program, server)
    if not program.early_bytes:
        await receive(program.socket)
    raise ConnectionAbortedError

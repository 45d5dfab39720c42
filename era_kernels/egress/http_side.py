"""Speaks HTTP/1.1 on one socket of the proxy: h11 between events and bytes."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import h11

from era_kernels.egress.connector import Outcome, Refused
from era_kernels.egress.requests import MAX_HEAD, end_to_end
from era_kernels.egress.streams import receive, send

_PROXY = "era-kernels"  # the name of the proxy in its own answers


class HttpSide:
    """One end of a request: the session's program, or the server that it asks."""

    def __init__(self, connection: socket.socket, role: type[h11.CLIENT | h11.SERVER]) -> None:
        """`role` is the proxy's own: it serves programs, and is a client of servers."""
        self.socket = connection
        self.on_moved: Callable[[], None] | None = None  # is called when bytes were sent
        self.is_broken = False  # True when the peer takes no more
        self.is_head = False  # True when answers have no body: the request is a HEAD
        self._http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)

    async def next_event(self) -> h11.Event:
        """Returns what the peer sends next. Raises OSError, h11.RemoteProtocolError."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await receive(self.socket))
            elif isinstance(event, h11.Event):
                return event
            else:  # PAUSED: one request is all
                raise h11.RemoteProtocolError("more was sent than one message")

    async def send(self, event: h11.Event) -> None:
        """Sends an event. Raises OSError, h11.LocalProtocolError."""
        data = self._http.send(event)
        if not data:
            return
        try:
            await send(self.socket, data)
        except OSError:
            self.is_broken = True
            raise
        if self.on_moved is not None:
            self.on_moved()

    @property
    def early_bytes(self) -> bytes:
        """The bytes that came after a request for a tunnel, which belong to the tunnel."""
        return self._http.trailing_data[0]

    @property
    def has_answered(self) -> bool:
        """True when the head of an answer was sent."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)


async def read_request(program: HttpSide) -> h11.Request:
    """Returns the head of a program's request. Raises Refused, OSError."""
    try:
        event = await program.next_event()
    except h11.RemoteProtocolError as error:
        status = error.error_status_hint
        raise Refused(status, f"The request is malformed: {error}.", Outcome.MALFORMED) from None
    if not isinstance(event, h11.Request):
        raise ConnectionAbortedError  # closed without a request
    program.is_head = event.method == b"HEAD"
    return event


async def refuse(program: HttpSide, refused: Refused) -> None:
    """Answers that a request is refused. Raises OSError, h11.LocalProtocolError."""
    body = f"{refused}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Proxy-Status", f"{_PROXY}; error={_ERRORS.get(refused.outcome, 'proxy_internal_error')}"),
        ("Connection", "close"),
    ]
    # Clients show the status line of an answer to CONNECT, and no more.
    reason = re.sub(r"[^ -~]", "?", str(refused).removesuffix("."))
    await program.send(
        h11.Response(status_code=refused.status, headers=headers, reason=reason.encode("ascii"))
    )
    if not program.is_head:
        await program.send(h11.Data(data=body))
    await program.send(h11.EndOfMessage())


# RFC 9209, section 2.3.
_ERRORS = {
    Outcome.OFF: "http_request_denied",
    Outcome.HOST: "http_request_denied",
    Outcome.ADDRESS: "destination_ip_prohibited",
    Outcome.FAILED: "destination_unavailable",
    Outcome.MALFORMED: "http_request_error",
    Outcome.SLOW: "http_request_error",
}


async def relay_body(source: HttpSide, target: HttpSide) -> None:
    """Passes on the rest of a message. Raises OSError and h11's errors."""
    while True:
        event = await source.next_event()
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionAbortedError
        if isinstance(event, h11.EndOfMessage):
            event = h11.EndOfMessage()  # trailers are meant for the proxy
        await target.send(event)
        if isinstance(event, h11.EndOfMessage):
            return


async def relay_response(server: HttpSide, program: HttpSide) -> None:
    """Passes on a server's answer. Raises OSError and h11's errors."""
    while True:
        event = await server.next_event()
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionAbortedError
        assert isinstance(event, h11.InformationalResponse | h11.Response)
        headers = end_to_end(event.headers)
        if isinstance(event, h11.InformationalResponse):
            if event.status_code != 101:  # nobody was asked to switch
                await program.send(
                    h11.InformationalResponse(status_code=event.status_code, headers=headers)
                )
            continue
        headers.append((b"connection", b"close"))
        await program.send(
            h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        )
        return await relay_body(server, program)

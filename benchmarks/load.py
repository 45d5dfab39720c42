"""Sends requests over many connections at once, as many as the server manages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count

# Makes the bytes of a whole request from its number.
MakeRequest = Callable[[int], bytes]


def request_rate(host: str, clients: int, seconds: float, make_request: MakeRequest) -> float:
    """Returns how many requests a second are answered; any answer but 200 is an error."""
    return asyncio.run(_request_rate(host, clients, seconds, make_request))


async def _request_rate(
    host: str, clients: int, seconds: float, make_request: MakeRequest
) -> float:
    address, port = host.split(":")
    loop, numbers, end = asyncio.get_running_loop(), count(), time.perf_counter() + seconds
    made = [
        await loop.create_connection(
            lambda: _Client(loop, numbers, make_request, end), address, int(port)
        )
        for _ in range(clients)
    ]
    began = time.perf_counter()
    for _, client in made:
        client.send_next()
    await asyncio.gather(*(client.ended for _, client in made))
    taken = time.perf_counter() - began
    return sum(client.answered for _, client in made) / taken


class _Client(asyncio.Protocol):
    """One connection, which sends its next request when the last one is answered."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        numbers: Iterator[int],
        make_request: MakeRequest,
        end: float,
    ) -> None:
        self.ended = loop.create_future()
        self.answered = 0
        self._numbers = numbers
        self._make_request = make_request
        self._end = end
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send_next(self) -> None:
        self._transport.write(self._make_request(next(self._numbers)))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        start = head.index(b"Content-Length: ") + 16
        if len(body) < int(head[start : start + 12].split(b"\r")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.ended.set_exception(RuntimeError(head.decode()))
            return
        self.answered, self._got = self.answered + 1, b""
        if time.perf_counter() < self._end:
            self.send_next()
        else:
            self._transport.close()
            self.ended.set_result(None)

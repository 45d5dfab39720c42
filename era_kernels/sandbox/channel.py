"""The server's end of a control socket: sends that never block, replies matched to requests."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable

from era_kernels.models import JsonObject
from era_kernels.sandbox import wire


class ChannelClosed(Exception):
    """The peer is gone, or this end was closed, before an answer came."""


class Channel:
    """One control socket on the event loop.

    `on_message` gets every message that is no reply, `on_end` is called once, at the end of file.
    """

    def __init__(
        self,
        end: socket.socket,
        on_message: Callable[[JsonObject], None],
        on_end: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._end = end
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._replies: dict[int, asyncio.Future[JsonObject]] = {}
        self._last_id = 0
        self._open = True
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: JsonObject, descriptors: Iterable[int] = ()) -> None:
        """Queue a message; its descriptors belong to the channel from now on and get closed.

        Raises ChannelClosed when the end of file was seen already, wire.Oversized.
        """
        owned = list(descriptors)
        try:
            if not self._open:
                raise ChannelClosed
            data, memory = wire.pack(message)
        except BaseException:
            _close_all(owned)
            raise
        self._waiting.append((data, owned + memory))
        self._flush()

    async def request(self, message: JsonObject, descriptors: Iterable[int] = ()) -> JsonObject:
        """Send a message with an id and wait for the reply to it. Raises ChannelClosed."""
        self._last_id += 1
        number = self._last_id
        reply: asyncio.Future[JsonObject] = self._loop.create_future()
        self._replies[number] = reply
        try:
            self.send({**message, "id": number}, descriptors)
            return await reply
        finally:
            self._replies.pop(number, None)

    def finish(self) -> None:
        """Tell the peer that nothing more comes; what it still says is read."""
        self._drop_waiting()
        if self._open:
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Forget the socket, without a call of `on_end`; a second call is fine."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        self._drop_waiting()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ChannelClosed())

    def _readable(self) -> None:
        try:
            received = wire.receive(self._end)
        except BlockingIOError:
            return
        if received is None:
            self.close()
            self._on_end()
            return
        message, descriptors = received
        _close_all(descriptors)  # nothing that the server asks for today comes with any
        reply = self._replies.get(message.get("id", 0))
        if reply is None:
            self._on_message(message)
        elif not reply.done():
            reply.set_result(message)

    def _flush(self) -> None:
        while self._waiting:
            data, descriptors = self._waiting[0]
            try:
                socket.send_fds(self._end, [data], descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._end.fileno(), self._flush)
                return
            except OSError:  # the peer is gone; the reader learns of it by itself
                self._drop_waiting()
                break
            self._waiting.popleft()
            _close_all(descriptors)
        self._loop.remove_writer(self._end.fileno())

    def _drop_waiting(self) -> None:
        while self._waiting:
            _close_all(self._waiting.popleft()[1])


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

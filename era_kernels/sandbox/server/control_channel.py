"""Sends messages over a control socket without blocking, and matches replies to requests."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable

from era_kernels.models import JsonObject
from era_kernels.sandbox.init import fd_messages


class ChannelClosed(Exception):
    """The peer is gone, or this end was closed, before a reply came."""


class ControlChannel:
    """One control socket on the event loop.

    `on_message` gets every message that is no reply; `on_end` is called once, at the end of file.
    """

    def __init__(
        self,
        control_socket: socket.socket,
        on_message: Callable[[JsonObject], None],
        on_end: Callable[[], None],
    ) -> None:
        control_socket.setblocking(False)
        self._socket = control_socket
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._replies: dict[int, asyncio.Future[tuple[JsonObject, list[int]]]] = {}
        self._last_id = 0
        self._is_open = True
        self._loop.add_reader(control_socket.fileno(), self._on_readable)

    def send(self, message: JsonObject, descriptors: Iterable[int] = ()) -> None:
        """Queues a message; its descriptors belong to the channel, which closes them.

        Raises ChannelClosed after the end of file, and fd_messages.MessageTooLarge.
        """
        owned = list(descriptors)
        try:
            if not self._is_open:
                raise ChannelClosed
            data, memory = fd_messages.pack(message)
        except BaseException:
            _close_all(owned)
            raise
        self._unsent.append((data, owned + memory))
        self._flush()

    async def request(self, message: JsonObject, descriptors: Iterable[int] = ()) -> JsonObject:
        """Sends a message with an id and waits for its reply. Raises ChannelClosed."""
        reply, received = await self.request_descriptors(message, descriptors)
        _close_all(received)
        return reply

    async def request_descriptors(
        self, message: JsonObject, descriptors: Iterable[int] = ()
    ) -> tuple[JsonObject, list[int]]:
        """Does the same; returns the reply's descriptors, too, which belong to the caller."""
        self._last_id += 1
        request_id = self._last_id
        reply: asyncio.Future[tuple[JsonObject, list[int]]] = self._loop.create_future()
        self._replies[request_id] = reply
        try:
            self.send({**message, "id": request_id}, descriptors)
            return await reply
        except asyncio.CancelledError:
            if reply.done() and not reply.cancelled() and reply.exception() is None:
                _close_all(reply.result()[1])
            raise
        finally:
            self._replies.pop(request_id, None)

    def close_write(self) -> None:
        """Shuts down sending, which the peer sees as end of file; reading goes on."""
        self._discard_unsent()
        if self._is_open:
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the socket, without a call of `on_end`; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._discard_unsent()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ChannelClosed())

    def _on_readable(self) -> None:
        try:
            received = fd_messages.receive(self._socket)
        except BlockingIOError:
            return
        if received is None:
            self.close()
            self._on_end()
            return
        message, descriptors = received
        reply = self._replies.get(message.get("id", 0))
        if reply is not None and not reply.done():
            reply.set_result((message, descriptors))
            return
        _close_all(descriptors)  # only replies have descriptors that somebody uses
        if reply is None:
            self._on_message(message)

    def _flush(self) -> None:
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                socket.send_fds(self._socket, [data], descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:  # the peer is gone; the reader sees the end of file by itself
                self._discard_unsent()
                break
            self._unsent.popleft()
            _close_all(descriptors)
        self._loop.remove_writer(self._socket.fileno())

    def _discard_unsent(self) -> None:
        while self._unsent:
            _close_all(self._unsent.popleft()[1])


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

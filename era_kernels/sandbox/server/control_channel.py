"""Sends messages over a control socket without blocking, and matches replies to requests.

Each request has a deadline, and the peer is asked for a sign of life in a calm rhythm, so that a
peer that somebody stopped is found. What the system refuses to send is told as that: it says
nothing about the peer.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

from era_kernels.concurrency.waiting import ends_within
from era_kernels.models import JsonObject
from era_kernels.sandbox.init import fd_messages
from era_kernels.sandbox.init.fd_messages import DescriptorsLost, close_all
from era_kernels.sandbox.init.send_queue import OnRefused, QueuedMessage, SendQueue
from era_kernels.sandbox.server.pulse import Pulse

REQUEST_TIMEOUT = 10.0  # seconds for a reply, the wait of a refused message included
PULSE_INTERVAL = 10.0  # seconds between two questions whether the peer still serves
PING_TIMEOUT = 5.0  # seconds for a sign of life
_WAIT_PARTS = 5  # of the wait for a reply
Reply = tuple[JsonObject, list[int]]


class ChannelError(Exception):
    """A request has no reply; the text says why."""


class ChannelClosed(ChannelError):
    """The peer is gone, or this end was closed, before a reply came."""


class NoAnswer(ChannelError):
    """The peer did not reply in time."""


class SendRefused(ChannelError):
    """The system did not take a message, or not its reply's descriptors: the peer is well."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the system refuses to hand over a message: {error.strerror}")
        self.errno = error.errno


class ControlChannel:
    """One control socket on the event loop.

    `on_message` gets every message that is no reply; `on_end` is called once, at the end of file.
    `on_silent` is called when a request had no reply in time although the system took it.
    """

    def __init__(
        self,
        control_socket: socket.socket,
        on_message: Callable[[JsonObject], None],
        on_end: Callable[[], None],
        on_silent: Callable[[], None] | None = None,
    ) -> None:
        control_socket.setblocking(False)
        self._socket = control_socket
        self._on_message = on_message
        self._on_end = on_end
        self._on_silent = on_silent
        self._loop = asyncio.get_running_loop()
        self._queue = SendQueue(control_socket)
        self._retry: asyncio.TimerHandle | None = None
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._last_id = 0
        self._pulse: Pulse | None = None
        self._is_open = True
        self._loop.add_reader(control_socket.fileno(), self._on_readable)

    @property
    def refusal(self) -> OSError | None:
        """Why the system does not take the next message; None while it takes all, or is full."""
        return None if self._queue.is_unread else self._queue.refusal

    def send(
        self,
        message: JsonObject,
        descriptors: Iterable[int] = (),
        on_refused: OnRefused | None = None,
    ) -> QueuedMessage:
        """Queues a message; its descriptors belong to the channel, which closes them.

        `on_refused` is called when the system refuses it for too long; without it the message
        waits. Raises ChannelClosed after the end of file, and fd_messages.MessageTooLarge.
        """
        owned = list(descriptors)
        if not self._is_open:
            close_all(owned)
            raise ChannelClosed
        queued = self._queue.put(message, owned, on_refused)
        self._flush()
        return queued

    async def request(
        self,
        message: JsonObject,
        descriptors: Iterable[int] = (),
        timeout: float | None = None,
    ) -> JsonObject:
        """Sends a message with an id and waits for its reply: REQUEST_TIMEOUT or `timeout` seconds.

        Raises ChannelClosed, NoAnswer, SendRefused.
        """
        reply, received = await self.request_descriptors(message, descriptors, timeout)
        close_all(received)
        return reply

    async def request_descriptors(
        self,
        message: JsonObject,
        descriptors: Iterable[int] = (),
        timeout: float | None = None,
    ) -> Reply:
        """Does the same; returns the reply's descriptors, too, which belong to the caller."""
        timeout = REQUEST_TIMEOUT if timeout is None else timeout
        self._last_id += 1
        request_id = self._last_id
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self._replies[request_id] = reply

        def on_refused(error: OSError) -> None:
            if not reply.done():
                reply.set_exception(SendRefused(error))

        queued = None
        try:
            queued = self.send({**message, "id": request_id}, descriptors, on_refused)
            await self._wait(reply, timeout)
            if reply.done():
                return reply.result()
        except asyncio.CancelledError:
            if reply.done() and not reply.cancelled() and reply.exception() is None:
                close_all(reply.result()[1])
            raise
        finally:
            del self._replies[request_id]
            reply.cancel()
            refusal, is_unread = self._queue.refusal, self._queue.is_unread
            was_sent = queued is None or not self._queue.withdraw(queued)
        if refusal is not None and not was_sent and not is_unread:
            raise SendRefused(refusal)
        if self._on_silent is not None:
            self._on_silent()
        raise NoAnswer(f"no answer came within {timeout:g} seconds")

    def start_pulse(self, interval: float = PULSE_INTERVAL) -> None:
        """Asks the peer for a sign of life each `interval` seconds, until either side closes."""
        if self._is_open and self._pulse is None:
            self._pulse = Pulse(self._ping, interval)

    @property
    def is_late(self) -> bool:
        """True while the peer owes a sign of life for longer than is usual."""
        return self._pulse is not None and self._pulse.is_late

    def close_write(self) -> None:
        """Shuts down sending, which the peer sees as end of file; reading goes on."""
        self._queue.clear()
        self._stop_pulse()
        if self._is_open:
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the socket, without a call of `on_end`; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._stop_pulse()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._retry is not None:
            self._retry.cancel()
        self._queue.clear()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ChannelClosed())

    def _stop_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()

    async def _ping(self) -> None:
        with suppress(ChannelError):
            await self.request({"op": "ping"}, timeout=PING_TIMEOUT)

    async def _wait(self, reply: asyncio.Future[Reply], timeout: float) -> None:
        """Waits for the reply, in parts: a server that was stopped for long loses only one."""
        for _ in range(_WAIT_PARTS):
            if await ends_within(reply, timeout / _WAIT_PARTS):
                return

    def _on_readable(self) -> None:
        try:
            received = fd_messages.receive(self._socket)
        except BlockingIOError:
            return
        except DescriptorsLost as lost:
            reply = self._replies.get(lost.message.get("id", 0))
            if reply is not None and not reply.done():
                reply.set_exception(SendRefused(OSError(errno.EMFILE, str(lost))))
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
        close_all(descriptors)  # only replies have descriptors that somebody uses
        if reply is None:
            self._on_message(message)

    def _flush(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            pause = self._queue.flush()
        except BrokenPipeError:  # the reader sees the end of file by itself
            return
        if pause is not None:
            self._retry = self._loop.call_later(pause, self._flush)

"""Sends data on a non-blocking socket, without ever blocking the loop."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterable
from itertools import islice

MAX_IOVECS = 16  # pieces that are handed to the system at once
TURN_BYTES = 1024 * 1024  # bytes that are sent before the loop runs other callbacks


class SocketWriter:
    """Sends pieces in order, now or as soon as the other end takes them.

    When the other end is gone, added pieces are dropped: the reader of the socket learns of it.
    """

    def __init__(self) -> None:
        self.pending_bytes = 0  # that wait to be sent
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[memoryview] = deque()
        self._socket: socket.socket | None = None
        self._has_writer = False  # the loop calls `_send` when the socket takes more
        self._is_closed = False

    def open(self, sock: socket.socket) -> None:
        """Sends all pieces, also those from before, on that socket from now on."""
        self._socket = sock
        self._send()

    def write(self, pieces: Iterable[bytes]) -> None:
        """Sends the pieces now or later; drops them after `close`."""
        if self._is_closed:
            return
        for piece in pieces:
            if piece:
                self._pieces.append(memoryview(piece))
                self.pending_bytes += len(piece)
        if not self._has_writer:
            self._send()

    def close(self) -> None:
        """Drops all that waits; called before the socket is closed. A second call does nothing."""
        if self._has_writer and self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
        self._has_writer, self._is_closed = False, True
        self._pieces.clear()
        self.pending_bytes = 0

    def _send(self) -> None:
        if self._socket is None:
            return
        until = self.pending_bytes - TURN_BYTES  # bytes that are left at the end of this turn
        try:
            while self._pieces and self.pending_bytes > until:
                self._discard_sent(self._socket.sendmsg(list(islice(self._pieces, MAX_IOVECS))))
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if bool(self._pieces) == self._has_writer:
            return
        self._has_writer = bool(self._pieces)
        if self._has_writer:
            self._loop.add_writer(self._socket.fileno(), self._send)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _discard_sent(self, count: int) -> None:
        self.pending_bytes -= count
        while count:
            piece = self._pieces.popleft()
            if count < len(piece):
                self._pieces.appendleft(piece[count:])
                return
            count -= len(piece)

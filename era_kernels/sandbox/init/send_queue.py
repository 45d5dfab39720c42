"""Keeps messages that the system does not take yet, in order, for whoever may not wait.

Server, zygote and init send through it. A refused message (the system has no room for descriptors
in flight, for memory, for open files) is tried again, and those behind it wait, each for a bounded
time; none of that means that the peer is gone.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from era_kernels.sandbox.init import fd_messages
from era_kernels.sandbox.init.fd_messages import GONE, REFUSALS, SEND_TIMEOUT, Datagram, close_all

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject

UNREAD_TIMEOUT = 10.0  # seconds for a peer that lets its messages lie
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1  # seconds between two tries

OnRefused = Callable[[OSError], None]


@dataclass(frozen=True, slots=True, eq=False)
class QueuedMessage:
    """A message that waits, or has waited; two of them are never equal."""

    datagram: Datagram
    descriptors: Sequence[int]
    on_refused: OnRefused | None
    queued_at: float  # monotonic seconds


class SendQueue:
    """The messages that one control socket did not take yet."""

    def __init__(self, control_socket: socket.socket) -> None:
        self.refusal: OSError | None = None  # of the first message, while there is one
        self._socket = control_socket
        self._unsent: deque[QueuedMessage] = deque()
        self._refused_since = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def is_unread(self) -> bool:
        """True while the socket is full, because the peer reads nothing."""
        return self.refusal is not None and self.refusal.errno == errno.EAGAIN

    def put(
        self,
        message: JsonObject,
        descriptors: Sequence[int] = (),
        on_refused: OnRefused | None = None,
    ) -> QueuedMessage:
        """Queues a message and returns it; its descriptors belong to the queue, which closes them.

        `on_refused` is called when the message was refused for too long; without it the message
        waits as long as it takes. The caller calls `flush`. Raises fd_messages.MessageTooLarge.
        """
        try:
            datagram = fd_messages.pack(message)
        except BaseException:
            close_all(descriptors)
            raise
        queued = QueuedMessage(datagram, descriptors, on_refused, time.monotonic())
        self._unsent.append(queued)
        return queued

    def withdraw(self, queued: QueuedMessage) -> bool:
        """Drops a message if it waits; returns False when it was sent or dropped before."""
        if queued not in self._unsent:
            return False
        self._unsent.remove(queued)
        close_all(queued.descriptors)
        return True

    def flush(self) -> float | None:
        """Sends what the system takes; returns the seconds until it wants to be called again.

        Returns None when nothing waits. Raises BrokenPipeError when the peer is gone: whatever
        waited is dropped then.
        """
        while self._unsent:
            first = self._unsent[0]
            try:
                first.datagram.try_send(self._socket, first.descriptors)
            except OSError as error:
                if error.errno in GONE:
                    self.clear()
                    raise BrokenPipeError(errno.EPIPE, "the peer is gone") from error
                if error.errno not in REFUSALS:  # nothing that time mends
                    self._drop([first], error)
                elif not self._drop(self._expired(error), error):
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                    return self._pause
            else:
                self._unsent.popleft()
                close_all(first.descriptors)
                self.refusal, self._pause = None, _FIRST_PAUSE
        self.refusal = None
        return None

    def clear(self) -> None:
        """Drops what waits, as when the socket is closed."""
        while self._unsent:
            close_all(self._unsent.popleft().descriptors)
        self.refusal = None

    def _expired(self, error: OSError) -> list[QueuedMessage]:
        """Returns the messages that wait for too long, now that the first was refused again."""
        if self.refusal is None or self.refusal.errno != error.errno:
            self._refused_since = time.monotonic()
        self.refusal = error
        timeout = UNREAD_TIMEOUT if error.errno == errno.EAGAIN else SEND_TIMEOUT
        before = time.monotonic() - timeout
        if self._refused_since > before:
            return []
        return [one for one in self._unsent if one.on_refused and one.queued_at <= before]

    def _drop(self, dropped: Sequence[QueuedMessage], error: OSError) -> bool:
        """Drops messages and tells that they were refused; returns False when there is none."""
        for one in dropped:
            self._unsent.remove(one)
            close_all(one.descriptors)
        for one in dropped:
            if one.on_refused is not None:
                one.on_refused(error)
        return bool(dropped)

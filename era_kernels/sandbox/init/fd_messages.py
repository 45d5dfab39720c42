"""Sends and receives JSON messages with descriptors between server, zygote and init.

A message is one datagram of a SOCK_SEQPACKET socket. A message that is too large for a datagram
(an environment may be hundreds of kilobytes, Linux's socket buffer is not) is written to a
memfd. The datagram then says so and whose it is, and the memfd is the last of its descriptors.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject


MAX_INLINE_BYTES = 32 * 1024  # bytes; a larger message is sent in a memfd
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # bytes of one message
MAX_DESCRIPTORS = 8  # of one datagram, the memfd included
SEND_TIMEOUT = 2.0  # seconds for which what the system refuses is tried again
# The system has no room now: for descriptors in flight, memory, open files. The peer is well.
REFUSALS = frozenset(
    {
        errno.ETOOMANYREFS,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
    }
)
GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})  # the peer is
_RETRY_PAUSE = 0.005  # seconds between two tries
_IN_MEMFD = b"memfd"  # before the head: what tells of a message whose memfd was lost
_HEAD = ("op", "id", "number", "process")
_ANCILLARY_BYTES = socket.CMSG_LEN(MAX_DESCRIPTORS * array("i").itemsize)


class MessageTooLarge(ValueError):
    """A message is larger than MAX_MESSAGE_BYTES."""


class DescriptorsLost(Exception):
    """A message came without its descriptors: this process may open no more, or the host.

    `message` is the message; when it was in a lost memfd only what says whose it is.
    """

    def __init__(self, message: JsonObject) -> None:
        super().__init__(os.strerror(errno.EMFILE))
        self.message = message


@dataclass(frozen=True, slots=True)
class Datagram:
    """A packed message: its bytes, and for a large one the head that goes beside the memfd."""

    data: bytes
    head: bytes = b""

    def try_send(self, control_socket: socket.socket, descriptors: Sequence[int]) -> None:
        """Sends it without waiting. Raises OSError; only errors of GONE tell of the peer."""
        if not self.head:
            _send_datagram(control_socket, self.data, descriptors)
            return
        memory = os.memfd_create("message", os.MFD_CLOEXEC)
        try:
            os.set_blocking(memory, False)  # it never blocks anyway; this is for code that checks
            view = memoryview(self.data)
            while view:
                view = view[os.write(memory, view) :]
            _send_datagram(control_socket, self.head, [*descriptors, memory])
        finally:
            os.close(memory)


def pack(message: JsonObject) -> Datagram:
    """Returns a message as a datagram. Raises MessageTooLarge."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= MAX_INLINE_BYTES:
        return Datagram(data)
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"a message of {len(data)} bytes")
    head = {name: message[name] for name in _HEAD if name in message}
    return Datagram(data, _IN_MEMFD + json.dumps(head).encode())


def send(
    control_socket: socket.socket,
    message: JsonObject,
    descriptors: tuple[int, ...] = (),
    timeout: float = SEND_TIMEOUT,
) -> None:
    """Sends one message, for which nobody else has to wait (blocking, at most `timeout` seconds).

    Raises OSError: an error of GONE without a peer, another one when the system goes on refusing.
    """
    datagram = pack(message)
    deadline = time.monotonic() + timeout
    while True:
        try:
            return datagram.try_send(control_socket, descriptors)
        except OSError as error:
            if error.errno not in REFUSALS or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_PAUSE)


def receive(control_socket: socket.socket) -> tuple[JsonObject, list[int]] | None:
    """Returns the next message and its descriptors; None at the end of file.

    The descriptors are close-on-exec and belong to the caller.
    Raises BlockingIOError when the socket is non-blocking and has no message, and DescriptorsLost.
    """
    try:
        data, ancillary, flags, _ = control_socket.recvmsg(
            MAX_INLINE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        # The peer closed without reading all that was sent to it. The system reports this once,
        # before the messages that the peer itself had sent.
        return receive(control_socket)
    if not data:
        return None
    descriptors = _descriptors(ancillary)
    if flags & socket.MSG_CTRUNC:
        close_all(descriptors)
        raise DescriptorsLost(json.loads(data.removeprefix(_IN_MEMFD)))
    if data.startswith(_IN_MEMFD):
        memory = descriptors.pop()
        try:
            data = os.pread(memory, os.fstat(memory).st_size, 0)
        finally:
            os.close(memory)
    message: JsonObject = json.loads(data)
    return message, descriptors


def close_all(descriptors: Iterable[int]) -> None:
    """Closes descriptors that came with a message or were to go with one."""
    for descriptor in descriptors:
        os.close(descriptor)


def _send_datagram(control_socket: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Sends without waiting: Python 3.11's `socket.send_fds` drops its flags."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    control_socket.sendmsg([data], rights if descriptors else (), socket.MSG_DONTWAIT)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Returns a datagram's descriptors: Python 3.11's `socket.recv_fds` drops its flags."""
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()

"""Sends and receives JSON messages with descriptors between server, zygote and init.

A message is one datagram of a SOCK_SEQPACKET socket. A message that is too large for a datagram
(an environment may be hundreds of kilobytes, Linux's socket buffer is not) is written to a
memfd. The datagram then says so, and the memfd is the last of its descriptors.
"""

from __future__ import annotations

import json
import os
import socket
from array import array

from era_kernels.models import JsonObject

MAX_INLINE_BYTES = 32 * 1024  # bytes; a larger message is sent in a memfd
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # bytes of one message
MAX_DESCRIPTORS = 8  # of one datagram, the memfd included
_IN_MEMFD = b"memfd"
_ANCILLARY_BYTES = socket.CMSG_LEN(MAX_DESCRIPTORS * array("i").itemsize)


class MessageTooLarge(ValueError):
    """A message is larger than MAX_MESSAGE_BYTES."""


def pack(message: JsonObject) -> tuple[bytes, list[int]]:
    """Returns the bytes of a message's datagram and its own descriptors (none, or a memfd).

    The caller closes the descriptors after sending them. Raises MessageTooLarge.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= MAX_INLINE_BYTES:
        return data, []
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"a message of {len(data)} bytes")
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    os.set_blocking(memory, False)  # a memfd never blocks anyway; this is for code that checks
    view = memoryview(data)
    while view:
        view = view[os.write(memory, view) :]
    return _IN_MEMFD, [memory]


def unpack(data: bytes, descriptors: list[int]) -> JsonObject:
    """Returns the message that `pack` packed; removes a memfd from `descriptors` and closes it."""
    if data == _IN_MEMFD:
        memory = descriptors.pop()
        try:
            data = os.pread(memory, os.fstat(memory).st_size, 0)
        finally:
            os.close(memory)
    message: JsonObject = json.loads(data)
    return message


def send(
    control_socket: socket.socket, message: JsonObject, descriptors: tuple[int, ...] = ()
) -> None:
    """Sends one message (blocking until the socket takes it). Raises OSError without a peer."""
    data, memory = pack(message)
    try:
        socket.send_fds(control_socket, [data], [*descriptors, *memory])
    finally:
        for descriptor in memory:
            os.close(descriptor)


def receive(control_socket: socket.socket) -> tuple[JsonObject, list[int]] | None:
    """Returns the next message and its descriptors; None at the end of file.

    The descriptors are close-on-exec and belong to the caller.
    Raises BlockingIOError when the socket is non-blocking and has no message.
    """
    try:
        data, ancillary, _, _ = control_socket.recvmsg(
            MAX_INLINE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        # The peer closed without reading all that was sent to it. The system reports this once,
        # before the messages that the peer itself had sent.
        return receive(control_socket)
    if not data:
        return None
    descriptors = _descriptors(ancillary)
    return unpack(data, descriptors), descriptors


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Returns a datagram's descriptors: Python 3.11's `socket.recv_fds` drops its flags."""
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()

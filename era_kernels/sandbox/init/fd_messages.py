"""The wire between server, zygote and init: JSON datagrams that may carry descriptors.

A message is one datagram of a SOCK_SEQPACKET socket. What is too big for one (an environment may
be hundreds of kilobytes, the kernel's socket buffer is not) is written to a memfd, which travels
as the last descriptor of a datagram that says so.
"""

from __future__ import annotations

import json
import os
import socket
from array import array

from era_kernels.models import JsonObject

MAX_INLINE_BYTES = 32 * 1024  # bytes; above it a message travels in a memfd
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # bytes of one message
MAX_DESCRIPTORS = 8  # at most so many come with one datagram, the memfd included
_IN_MEMFD = b"memfd"
_ANCILLARY_BYTES = socket.CMSG_LEN(MAX_DESCRIPTORS * array("i").itemsize)


class MessageTooLarge(ValueError):
    """A message is larger than any that this wire carries."""


def pack(message: JsonObject) -> tuple[bytes, list[int]]:
    """A message as the bytes of a datagram and the descriptors (none or a memfd) that go with it.

    The caller closes the descriptors when they were sent. Raises Oversized.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= MAX_INLINE_BYTES:
        return data, []
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"a message of {len(data)} bytes")
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    os.set_blocking(memory, False)  # memory never blocks; this says so to those who check
    view = memoryview(data)
    while view:
        view = view[os.write(memory, view) :]
    return _IN_MEMFD, [memory]


def unpack(data: bytes, descriptors: list[int]) -> JsonObject:
    """The inverse of `pack`; takes a memfd off `descriptors` and closes it."""
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
    """Send one message and wait until the socket took it. Raises OSError when the peer is gone."""
    data, memory = pack(message)
    try:
        socket.send_fds(control_socket, [data], [*descriptors, *memory])
    finally:
        for descriptor in memory:
            os.close(descriptor)


def receive(control_socket: socket.socket) -> tuple[JsonObject, list[int]] | None:
    """The next message and its descriptors (close-on-exec, now the caller's); None at the end.

    Raises BlockingIOError when the socket does not block and nothing is there.
    """
    try:
        data, ancillary, _, _ = control_socket.recvmsg(
            MAX_INLINE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        # The peer left without reading all that it was sent. This is told once, and before what
        # the peer itself had said.
        return receive(control_socket)
    if not data:
        return None
    descriptors = _descriptors(ancillary)
    return unpack(data, descriptors), descriptors


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """What came with a datagram. (`socket.recv_fds` of Python 3.11 drops its flags.)"""
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()

"""Frames the messages between the server and a worker: lengths first, then JSON and bytes."""

from __future__ import annotations

import socket
import struct

REQUEST_LENGTH = struct.Struct("!I")  # bytes of a request, which is one JSON object
REPLY_LENGTHS = struct.Struct("!II")  # bytes of a reply's head, a JSON object, and of its rows
MAX_HEAD = 32 * 1024 * 1024  # bytes of a reply's head


def receive_request(connection: socket.socket) -> bytes | None:
    """Returns the next request (blocking); None when the server is gone."""
    prefix = _receive_exactly(connection, REQUEST_LENGTH.size)
    if prefix is None:
        return None
    (length,) = REQUEST_LENGTH.unpack(prefix)
    return _receive_exactly(connection, length)


def _receive_exactly(connection: socket.socket, length: int) -> bytes | None:
    buffer = bytearray(length)
    view, received = memoryview(buffer), 0
    while received < length:
        count = connection.recv_into(view[received:])
        if not count:
            return None
        received += count
    return bytes(buffer)


def frame_request(request: bytes) -> bytes:
    """Returns a request as it goes to a worker."""
    return REQUEST_LENGTH.pack(len(request)) + request


def frame_reply(head: bytes, rows: bytes) -> bytes:
    """Returns a reply as it goes to the server."""
    return b"%b%b%b" % (REPLY_LENGTHS.pack(len(head), len(rows)), head, rows)

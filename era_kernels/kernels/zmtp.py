"""Implements a client of ZMTP, the protocol of ZeroMQ: bytes in, messages out, without I/O.

RFC 23/ZMTP 3.0 and RFC 37/ZMTP 3.1 (rfc.zeromq.org), mechanism NULL, as DEALER or SUB. All that a
peer sends is hostile input: a message has a bounded number of parts and bytes, and takes memory
only as its bytes really arrive, whatever length was announced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

MAX_PARTS = 64  # of one message
MAX_MESSAGE_BYTES = 128 * 1024 * 1024  # of one message, all parts together
MAX_COMMAND_BYTES = 8192  # of one command; READY is the longest there is
MAX_CONTEXT_BYTES = 16  # of a PING, which its PONG repeats, RFC 37

MORE, LONG, COMMAND = 0x01, 0x02, 0x04  # flags of a frame, RFC 23 "Framing"
GREETING_BYTES = 64

SocketType = Literal["DEALER", "SUB"]
# The types that the peer's socket may have, RFC 23 "The Socket-Type Property".
_PEER_TYPES = {
    "DEALER": {b"REP", b"DEALER", b"ROUTER"},
    "SUB": {b"PUB", b"XPUB"},
}
_MAX_SHORT_BYTES = 255  # bytes of a body whose size is one byte


class ProtocolError(Exception):
    """Reports that a peer broke the protocol; the text says how, for people."""


@dataclass(frozen=True, slots=True)
class ZmtpCommand:
    """Holds the name of a command frame and the rest of it."""

    name: bytes
    data: bytes


Part = bytes | bytearray
Multipart = list[Part]


# ---------------------------------------------------------------- what is sent


def greeting() -> bytes:
    """Returns the first bytes of a connection: version 3.1, mechanism NULL, not as a server."""
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(socket_type: SocketType, identity: bytes = b"") -> bytes:
    """Returns the READY command of the NULL mechanism, RFC 23 "The NULL Security Mechanism".

    A ROUTER addresses its peer by `identity`: at most 255 bytes, the first of them not zero.
    """
    properties = {b"Socket-Type": socket_type.encode()}
    if socket_type == "DEALER":
        properties[b"Identity"] = identity
    data = b"".join(
        bytes([len(name)]) + name + len(value).to_bytes(4) + value
        for name, value in properties.items()
    )
    return command(b"READY", data)


def subscription(version: tuple[int, int]) -> bytes:
    """Returns a subscription to everything.

    Since version 3.1 that is a command, before it is a message that begins with 1.
    """
    return command(b"SUBSCRIBE") if version >= (3, 1) else frame(b"\x01")


def command(name: bytes, data: bytes = b"") -> bytes:
    """Returns a command as a frame; RFC 23 "Commands"."""
    return frame(bytes([len(name)]) + name + data, COMMAND)


def frame(body: bytes, flags: int = 0) -> bytes:
    """Returns a frame; RFC 23 "Framing"."""
    return frame_header(len(body), flags) + body


def frame_header(size: int, flags: int = 0) -> bytes:
    """Returns the header of a frame with a body of that size."""
    if size <= _MAX_SHORT_BYTES:
        return bytes([flags, size])
    return bytes([flags | LONG]) + size.to_bytes(8)


def message(parts: list[bytes]) -> list[bytes]:
    """Returns a message as pieces to be sent one after the other; long parts are not copied."""
    pieces, small = [], bytearray()
    for number, part in enumerate(parts, 1):
        small += frame_header(len(part), MORE if number < len(parts) else 0)
        if len(part) <= MAX_COMMAND_BYTES:
            small += part
        else:
            pieces += [bytes(small), part]
            small.clear()
    return [*pieces, bytes(small)] if small else pieces


# ---------------------------------------------------------------- what is received


class Decoder:
    """Decodes bytes as they arrive, cut anywhere, into commands and messages, one by one.

    First comes the greeting, which sets `version`; then `next` returns commands and messages.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """Accepts messages of at most `max_message_bytes`."""
        self.version: tuple[int, int] | None = None
        self._max_message_bytes = max_message_bytes
        self._data = b""
        self._position = 0  # where in `_data` the undecoded rest begins
        self._parts: Multipart = []  # of the message so far
        self._message_bytes = 0  # of the message so far, as announced
        self._flags = 0
        self._partial_body: bytearray | None = None  # of a frame that has not arrived completely
        self._missing_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """The number of bytes that are here of an incomplete message."""
        return sum(map(len, self._parts)) + (
            0 if self._partial_body is None else len(self._partial_body)
        )

    def feed(self, data: bytes) -> None:
        """Takes more bytes. Before that, `next` must have returned None."""
        rest = self._data[self._position :]  # an incomplete frame header
        self._data, self._position = rest + data if rest else data, 0

    def next(self) -> Multipart | ZmtpCommand | None:
        """Returns the next message or command; None when more bytes are needed.

        Raises ProtocolError.
        """
        if self.version is None and not self._read_greeting():
            return None
        while True:
            body = self._next_frame()
            if body is None:
                if self._position >= len(self._data):
                    self._data, self._position = b"", 0  # an idle connection keeps nothing
                return None
            if self._flags & COMMAND:
                return _parse_command(body)
            self._parts.append(body)
            if not self._flags & MORE:
                done, self._parts, self._message_bytes = self._parts, [], 0
                return done

    def _read_greeting(self) -> bool:
        """Reads the greeting; returns whether it is complete.

        Raises ProtocolError, for a wrong signature or version before it is complete.
        """
        data = self._data
        if data[:1] not in (b"", b"\xff") or data[9:10] not in (b"", b"\x7f"):
            raise ProtocolError("its greeting is not that of ZMTP")
        if data[10:11] and data[10] < 3:
            raise ProtocolError("it speaks a version of ZMTP before 3.0")
        if len(data) < GREETING_BYTES:
            return False
        if data[12:32].rstrip(b"\0") != b"NULL":
            raise ProtocolError("it asks for a security mechanism")
        self.version = (data[10], data[11])
        self._position = GREETING_BYTES
        return True

    def _next_frame(self) -> Part | None:
        """Returns the body of the next frame; None while it is incomplete."""
        if self._partial_body is not None:
            return self._continue_frame(self._partial_body)
        data, at = self._data, self._position
        if len(data) - at < 2:
            return None
        flags = data[at]
        if flags & LONG:
            if len(data) - at < 9:
                return None
            size, start = int.from_bytes(data[at + 1 : at + 9]), at + 9
        else:
            size, start = data[at + 1], at + 2
        self._check_frame_header(flags, size)
        self._flags = flags
        self._position = stop = start + size
        if stop <= len(data):
            return data[start:stop]
        self._partial_body, self._missing_bytes = bytearray(data[start:]), stop - len(data)
        self._position = len(data)
        return None

    def _continue_frame(self, body: bytearray) -> Part | None:
        data = self._data
        taken = data if not self._position and len(data) <= self._missing_bytes else None
        if taken is None:
            taken = data[self._position : self._position + self._missing_bytes]
        body += taken
        self._position += len(taken)
        self._missing_bytes -= len(taken)
        if self._missing_bytes:
            return None
        self._partial_body = None
        return body

    def _check_frame_header(self, flags: int, size: int) -> None:
        """Raises ProtocolError when a frame's header is not acceptable."""
        if flags & ~(MORE | LONG | COMMAND) or flags & (MORE | COMMAND) == MORE | COMMAND:
            raise ProtocolError("a frame has flags that mean nothing")
        if flags & COMMAND:
            if size > MAX_COMMAND_BYTES:
                raise ProtocolError("a command is too long")
            return
        self._message_bytes += size
        if self._message_bytes > self._max_message_bytes:
            raise ProtocolError(f"a message has more than {self._max_message_bytes >> 20} MiB")
        if len(self._parts) >= MAX_PARTS:
            raise ProtocolError(f"a message has more than {MAX_PARTS} parts")


def _parse_command(body: Part) -> ZmtpCommand:
    length = body[0] if body else 0
    if not length or len(body) < 1 + length:
        raise ProtocolError("a command has no name")
    return ZmtpCommand(bytes(body[1 : 1 + length]), bytes(body[1 + length :]))


def check_ready(socket_type: SocketType, data: bytes) -> None:
    """Raises ProtocolError when the READY is from a socket of the wrong type."""
    peer_type = _parse_properties(data).get(b"socket-type")
    if peer_type not in _PEER_TYPES[socket_type]:
        raise ProtocolError("its socket has the wrong type")


def pong(data: bytes) -> bytes:
    """Returns the answer to a PING, whose data is a TTL of two bytes and a context, RFC 37."""
    return command(b"PONG", data[2 : 2 + MAX_CONTEXT_BYTES])


def _parse_properties(data: bytes) -> Mapping[bytes, bytes]:
    """Parses metadata, names in lower case; RFC 23 "Connection Metadata".

    Raises ProtocolError.
    """
    return dict(_iter_properties(data))


def _iter_properties(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        size_end = name_end + 4
        stop = size_end + int.from_bytes(data[name_end:size_end])
        if name_end == at + 1 or stop > len(data) or size_end > len(data):
            raise ProtocolError("its metadata is torn")
        yield data[at + 1 : name_end].lower(), data[size_end:stop]
        at = stop

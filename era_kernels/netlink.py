"""Sends requests to Linux by netlink(7): a message, its attributes, and what comes back."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_NETFILTER = 0, 4, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ROOT, NLM_F_MATCH = 1, 4, 0x100, 0x200
NLM_F_REPLACE, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x400, 0x800
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLA_F_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_ERROR = struct.Struct("=i")  # nlmsgerr: a negative errno
_MAX_REPLY = 1 << 20


class Netlink:
    """A netlink socket of the network namespace that this process is in."""

    def __init__(self, protocol: int, groups: int = 0) -> None:
        """`groups` are the multicast groups whose messages come, too. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._sequence = 0
        try:
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Closes the socket; a second call is fine."""
        self._socket.close()

    def skip(self) -> None:
        """Drops all messages that wait, also those that Linux dropped itself."""
        with suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_MAX_REPLY, socket.MSG_DONTWAIT)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Returns the descriptor, which is readable when a message waits."""
        return self._socket.fileno()

    def call(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Sends one request and waits until Linux has done it. Raises OSError."""
        self.call_all([message(kind, payload, flags | NLM_F_ACK)])

    def call_all(self, messages: list[bytes]) -> None:
        """Sends requests at once. Returns at the last one's answer, which must be asked for.

        Raises OSError for the first that Linux refuses.
        """
        sequences = []
        numbered = b""
        for one in messages:
            self._sequence += 1
            sequences.append(self._sequence)
            numbered += one[:8] + struct.pack("=I", self._sequence) + one[12:]
        self._socket.sendto(numbered, (0, 0))
        asked = {
            sequence
            for sequence, one in zip(sequences, messages, strict=True)
            if struct.unpack_from("=H", one, 6)[0] & NLM_F_ACK
        }
        while asked:
            for kind, sequence, body in self.receive():
                if kind == _NLMSG_ERROR and sequence in sequences:
                    _check_error(body)
                    asked.discard(sequence)

    def ask(self, kind: int, payload: bytes) -> bytes:
        """Sends a question, which Linux answers at once; returns the answer. Raises OSError."""
        self._socket.sendto(message(kind, payload), (0, 0))
        for answer, _, body in self.receive():
            if answer == _NLMSG_ERROR:
                _check_error(body)
            else:
                return body
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))

    def dump(self, kind: int, payload: bytes) -> Iterator[tuple[int, bytes]]:
        """Asks for a list; yields the type and the body of each entry. Raises OSError."""
        self._sequence += 1
        request = message(kind, payload, NLM_F_DUMP)
        self._socket.sendto(request[:8] + struct.pack("=I", self._sequence) + request[12:], (0, 0))
        while True:
            for answer, sequence, body in self.receive():
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    _check_error(body)
                    return
                yield answer, body

    def receive(self) -> Iterator[tuple[int, int, bytes]]:
        """Waits for the next messages; yields the type, the sequence number and body of each."""
        data = self._socket.recv(_MAX_REPLY)
        while len(data) >= _HEADER.size:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            yield kind, sequence, data[_HEADER.size : length]
            data = data[_aligned(length) :]


def message(kind: int, payload: bytes, flags: int = 0) -> bytes:
    """Returns a request without a number."""
    length = _HEADER.size + len(payload)
    header = _HEADER.pack(length, kind, flags | NLM_F_REQUEST, 0, 0)
    return header + payload + bytes(_aligned(length) - length)


def attribute(kind: int, value: bytes) -> bytes:
    """Returns an attribute of a message, filled up to a multiple of four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Returns an attribute that holds others."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def read_attributes(data: bytes) -> dict[int, bytes]:
    """Returns the attributes of a message by their types; of equal ones the last."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind & ~_NLA_F_NESTED] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _check_error(body: bytes) -> None:
    number = -_ERROR.unpack_from(body)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _aligned(length: int) -> int:
    return (length + 3) & ~3

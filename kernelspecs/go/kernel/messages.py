"""Reads what a program sends to the kernel beside its output: displays, results, refusals.

Each message is a length in four bytes, the highest first, and so much JSON: `kind` and `content`.
The kernel answers with one byte, which the program waits for: so displays stand in order with what
is printed. All of it is hostile input.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

MAX_BYTES = 100 * 1024 * 1024  # bytes of a message
READ_BYTES = 256 * 1024


class MessageReader:
    """The kernel's end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._data = bytearray()
        self.is_open = True

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> list[dict[str, Any]]:
        """Returns the messages that are complete now; each is to be answered by `acknowledge`."""
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.is_open = bool(data)
        self._data += data
        found = []
        while len(self._data) >= 4:
            size = int.from_bytes(self._data[:4], "big")
            if size > MAX_BYTES:
                self.is_open = False
                break
            if len(self._data) < 4 + size:
                break
            found.append(_parse(bytes(self._data[4 : 4 + size])))
            del self._data[: 4 + size]
        return found

    def acknowledge(self) -> None:
        """Tells the program that its message was taken."""
        with suppress(OSError):
            self._connection.send(b"\1", socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._connection.close()


def _parse(data: bytes) -> dict[str, Any]:
    """Returns a message; one of the kind "" for what makes no sense."""
    with suppress(ValueError, RecursionError):
        message = json.loads(data)
        if isinstance(message, dict) and isinstance(message.get("kind"), str):
            return message
    return {"kind": "", "content": None}

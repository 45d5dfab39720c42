"""Makes, signs and reads messages, as Jupyter's specification of its wire protocol has it."""

from __future__ import annotations

import hmac
import itertools
import json
import os
from datetime import UTC, datetime
from typing import Any

from era_kernel.raw_sockets import Parts, Socket, send_parts

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.4"

Content = dict[str, Any]
Message = dict[str, Any]


class Wire:
    """The messages of one connection."""

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac.new(key, digestmod="sha256") if key else None
        self._session = os.urandom(8).hex()
        self._numbers = itertools.count()

    def send(
        self,
        socket: Socket,
        kind: str,
        content: Content,
        parent: Message,
        identities: Parts | None = None,
    ) -> None:
        """Sends a message; `parent` is the header of what it belongs to, or empty."""
        header = {
            "msg_id": f"{self._session}_{next(self._numbers)}",
            "msg_type": kind,
            "username": "kernel",
            "session": self._session,
            "date": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "version": PROTOCOL_VERSION,
        }
        parts = [_pack(header), _pack(parent), b"{}", _pack(content)]
        send_parts(socket, [*(identities or []), DELIMITER, self._sign(parts), *parts])

    def read(self, parts: Parts) -> Message:
        """Returns the message in these parts, with the identities of its sender.

        Raises ValueError.
        """
        start = parts.index(DELIMITER)
        signature, *body = parts[start + 1 :]
        if len(body) < 4 or not hmac.compare_digest(self._sign(body[:4]), signature):
            raise ValueError("the message is cut short, or its signature is wrong")
        header, _, metadata, content = map(json.loads, body[:4])
        return {
            "identities": parts[:start],
            "header": header,
            "kind": str(header["msg_type"]),
            "metadata": metadata,
            "content": content,
        }

    def _sign(self, parts: list[bytes]) -> bytes:
        if self._hmac is None:
            return b""
        digest = self._hmac.copy()
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()


def _pack(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        errors="backslashreplace"
    )

"""Packs, signs and unpacks messages with functions that no program can replace.

Programs mock `json.dumps`, `os.getpid` or `datetime` at will, and `jupyter_client` looks these up
when it needs them. What is used here is bound before any program runs. The wire format is that of
the Jupyter messaging specification, section "The wire protocol".
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any

from jupyter_client.session import DELIM, Session
from zmq import Socket as ZmqSocket

from era_kernel.message_json import pack, unpack
from era_kernel.raw_sockets import send_parts

Message = dict[str, Any]

_now = datetime.now


class WireSession(Session):
    """Makes and reads the messages of one connection, as `jupyter_client` does."""

    def __init__(self, **kwargs: Any) -> None:
        # A forked child sends nothing, and `os.getpid` may be a program's.
        super().__init__(check_pid=False, pack=pack, unpack=unpack, **kwargs)
        self._prefix = self.session
        self._numbers = itertools.count()
        # The object of OpenSSL, whose methods no program can replace.
        self._auth = getattr(self.auth, "_hmac", None) or self.auth

    def clone(self) -> WireSession:
        """Returns a session with the same key, for another thread."""
        return WireSession(
            key=self.key, signature_scheme=self.signature_scheme, session=f"{self._prefix}-control"
        )

    def msg_header(self, msg_type: str) -> Message:
        """Returns the header of a new message."""
        return {
            "msg_id": f"{self._prefix}_{next(self._numbers)}",
            "msg_type": msg_type,
            "username": "kernel",
            "session": self._prefix,
            "date": _now(UTC).isoformat().replace("+00:00", "Z"),
            "version": "5.4",
        }

    def sign(self, msg_list: list[bytes]) -> bytes:
        """Returns the signature of a message's parts; empty when the connection has no key."""
        if self._auth is None:
            return b""
        digest = self._auth.copy()
        for part in msg_list:
            digest.update(part)
        return digest.hexdigest().encode()

    def send(  # type: ignore[override]
        self,
        stream: Any,
        msg_or_type: str,
        content: Message | None = None,
        parent: Message | None = None,
        ident: list[bytes] | bytes | None = None,
        buffers: list[Any] | None = None,
        track: bool = False,
        header: Message | None = None,
        metadata: Message | None = None,
    ) -> None:
        """Sends a message on a socket; `parent` is a message or the header of one."""
        parent_header = (parent or {}).get("header", parent or {})
        parts = [
            pack(header or self.msg_header(msg_or_type)),
            pack(parent_header),
            pack(metadata or {}),
            pack(content or {}),
        ]
        identities = [ident] if isinstance(ident, bytes) else ident or []
        message = [*identities, DELIM, self.sign(parts), *parts, *(buffers or [])]
        if isinstance(stream, ZmqSocket):
            send_parts(stream, message)
        else:
            stream.send_multipart(message)

    def deserialize(  # type: ignore[override]
        self, msg_list: list[bytes], content: bool = True, copy: bool = True
    ) -> Message:
        """Returns the message in these parts, the signature first. Raises ValueError."""
        signature, *parts = msg_list
        if len(parts) < 4:
            raise ValueError("the message has too few parts")
        if self._auth is not None and not compare_digest(self.sign(parts[:4]), signature):
            raise ValueError("the message has a wrong signature")
        header = unpack(parts[0])
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": unpack(parts[1]),
            "metadata": unpack(parts[2]),
            "content": unpack(parts[3]),
            "buffers": parts[4:],
        }

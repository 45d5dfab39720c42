"""Packs, signs and unpacks messages with functions that no program can replace.

Programs mock `json.dumps`, `os.getpid` or `datetime` at will, and `jupyter_client` looks these up
when it needs them. What is used here is bound before any program runs. The wire format is that of
the Jupyter messaging specification, section "The wire protocol".
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from hmac import compare_digest
from json.decoder import JSONDecoder
from json.encoder import c_make_encoder, encode_basestring
from typing import Any

from ipykernel.jsonutil import json_clean
from jupyter_client.jsonutil import json_default
from jupyter_client.session import DELIM, Session
from zmq import Socket as ZmqSocket

from era_kernel.raw_sockets import send_parts

Message = dict[str, Any]

_now = datetime.now
# The parts in C: `JSONEncoder.encode` and `JSONDecoder.decode` look up builtins such as `len`.
_iterencode = c_make_encoder(
    None, json_default, encode_basestring, None, ": ", ", ", False, False, False
)
_scan_once = JSONDecoder().scan_once


def pack(value: object) -> bytes:
    """Returns a value as JSON; what JSON lacks is replaced as `json_clean` does."""
    try:
        return _encode(value).encode("utf-8", "surrogateescape")
    except (TypeError, ValueError, RecursionError):
        return _encode(json_clean(value)).encode("utf-8", "replace")


def _encode(value: object) -> str:
    return "".join(_iterencode(value, 0))


def unpack(data: bytes) -> Any:
    """Returns the value of a JSON text. Raises ValueError."""
    try:
        return _scan_once(data.decode("utf-8", "surrogateescape").strip(), 0)[0]
    except StopIteration:
        raise ValueError("the message is no JSON") from None


class WireSession(Session):
    """Makes and reads the messages of one connection, as `jupyter_client` does."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(check_pid=False, **kwargs)
        self.pack, self.unpack = pack, unpack
        self._prefix = self.session
        self._numbers = itertools.count()
        self._auth = self.auth

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

"""Jupyter's wire format: where a kernel's sockets are, and signed multipart messages.

Follows "The wire protocol" and "Connection files" of the Jupyter documentation. Messages are made
and signed by jupyter_client; reading is done here, because its `deserialize` also parses dates,
keeps digests and adapts versions, which triples the cost of a message, and raises what it likes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any

from jupyter_client.session import DELIM, Session

from era_kernels.concurrency.cooperative import Stepwise
from era_kernels.json_incremental import CHUNK_CHARS, LARGE_BYTES, iterparse
from era_kernels.kernels.zmtp import Part
from era_kernels.models import JsonObject

VALUES = 1_000_000  # lists, objects and their items in one part; each takes some 64 bytes here
VALUES_AT_ONCE = 5000  # that are parsed in one go
DEPTH = 102  # of nested JSON: a MIME bundle may have 100 levels

_FILE = "kernel.json"
_DUMP = "dump"
_PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
# JSON knows no NaN and no infinities, though Python's parser does.
_decoder = json.JSONDecoder(parse_constant=lambda _: None)


class BrokenMessage(Exception):
    """Bytes from a kernel that are no message signed by it; the text is a constant."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The five sockets of a kernel, as unix sockets in `directory`, and the key of its messages.

    `inside` is the same directory as the kernel sees it. The longest path is that of `directory`
    and 4 bytes; a unix socket's path may have 107.
    """

    directory: Path
    inside: Path
    key: str

    @classmethod
    def new(cls, directory: Path, inside: Path | None = None) -> Connection:
        """A connection with a key of its own."""
        return cls(directory, inside or directory, secrets.token_hex(32))

    @property
    def file(self) -> Path:
        """The connection file that the kernel is told of, where it sees it."""
        return self.inside / _FILE

    def path(self, channel: str) -> Path:
        """The socket of `shell`, `iopub`, `stdin`, `control` or `hb`."""
        return self.directory / f"k-{_PORTS[channel]}"

    @property
    def dump(self) -> Path:
        """Where a kernel that can do nothing else writes its stack, if it is one that does."""
        return self.directory / _DUMP

    def address(self, channel: str) -> str:
        """The same as a ZeroMQ address."""
        return f"ipc://{self.path(channel)}"

    def write(self) -> None:
        """Write the connection file, for the directory's owner only. Blocking; raises OSError."""
        told = {
            "transport": "ipc",
            "ip": f"{self.inside}/k",
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            "dump": f"{self.inside}/{_DUMP}",
            **{f"{channel}_port": number for channel, number in _PORTS.items()},
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        number = os.open(self.directory / _FILE, flags, 0o600)
        with os.fdopen(number, "w") as file:
            json.dump(told, file)
            os.fchown(number, self.directory.stat().st_uid, -1)


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a kernel: `parent` is the id of the request that it answers, or "".

    `size` is that of its content in bytes.
    """

    kind: str
    parent: str
    content: JsonObject
    size: int


class Wire:
    """Makes requests and reads what comes back, with one kernel's key."""

    def __init__(self, key: str) -> None:
        # No digests are kept: whoever has the key can make new messages as well as send old ones.
        self._session = Session(key=key.encode(), username="era", digest_history_size=0)

    def pack(
        self, kind: str, content: JsonObject, metadata: JsonObject | None = None
    ) -> tuple[str, list[bytes]]:
        """A request's id, and its parts, signed."""
        message = self._session.msg(kind, content, metadata=metadata)
        return message["msg_id"], self._session.serialize(message)

    def unpack(self, parts: Sequence[Part]) -> Message:
        """Raises BrokenMessage when the parts are no message, or one signed by somebody else."""
        signature, *signed = _signed(parts)
        if not compare_digest(self._session.sign(signed), signature):
            raise BrokenMessage("the signature is wrong")
        header, parent, _, content = signed
        return _message(_parse(header), _parse(parent), _parse(content), len(content))

    def unpacking(self, parts: Sequence[Part]) -> Stepwise[Message]:
        """The same in steps, for a message that `is_long`."""
        signature, *signed = _signed(parts)
        if not compare_digest((yield from self._digest(signed)), signature):
            raise BrokenMessage("the signature is wrong")
        header, parent, _, content = signed
        size = len(content)
        return _message(
            (yield from _parsing(header)),
            (yield from _parsing(parent)),
            (yield from _parsing(content)),
            size,
        )

    def _digest(self, parts: Sequence[Part]) -> Stepwise[bytes]:
        """What `Session.sign` gives."""
        assert self._session.auth is not None  # there always is a key
        digest = self._session.auth.copy()
        for part in parts:
            for start in range(0, len(part), CHUNK_CHARS):
                digest.update(memoryview(part)[start : start + CHUNK_CHARS])
                yield
        return digest.hexdigest().encode()


def is_long(parts: Sequence[Part]) -> bool:
    """Whether unpacking a message keeps others waiting."""
    if sum(map(len, parts)) > LARGE_BYTES:
        return True
    return any(
        _marks(part) > VALUES_AT_ONCE and _marks(_without_strings(part)) > VALUES_AT_ONCE
        for part in parts
    )


def _signed(parts: Sequence[Part]) -> Sequence[Part]:
    """The signature, and the four parts that it signs."""
    try:
        start = parts.index(DELIM) + 1
    except ValueError as error:
        raise BrokenMessage("parts are missing") from error
    if len(parts) < start + 5:
        raise BrokenMessage("parts are missing")
    return parts[start : start + 5]


def _message(header: JsonObject, parent: JsonObject, content: JsonObject, size: int) -> Message:
    kind, answered = header.get("msg_type"), parent.get("msg_id", "")
    if not isinstance(kind, str) or not isinstance(answered, str):
        raise BrokenMessage("a header has the wrong shape")
    return Message(kind, answered, content, size)


def _parse(part: Part) -> JsonObject:
    """A JSON object. Bytes that are not UTF-8 become U+FFFD: a program may print any."""
    try:
        value: Any = _decoder.decode(part.decode("utf-8", "replace"))
    # Deep nesting, numbers of thousands of digits, more than fits: the parser says no in many ways.
    except (ValueError, RecursionError, MemoryError) as error:
        raise BrokenMessage("a part is no JSON") from error
    return _object(value)


def _parsing(part: Part) -> Stepwise[JsonObject]:
    # Each `[]` of a bomb takes 3 bytes there and 64 here.
    try:
        value = yield from iterparse(part, VALUES, DEPTH)
    except (ValueError, MemoryError) as error:
        raise BrokenMessage("a part is no JSON, or too much of it") from error
    return _object(value)


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise BrokenMessage("a part is no JSON object")
    return value


def _marks(part: Part) -> int:
    """How many values stand in JSON text, at most."""
    return part.count(b",") + part.count(b"[") + part.count(b"{")


def _without_strings(part: Part) -> Part:
    """JSON text without what stands in its strings."""
    bare = part.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(bare.split(b'"')[::2])

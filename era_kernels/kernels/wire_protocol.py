"""Implements Jupyter's wire protocol: where a kernel's sockets are, and signed messages.

Follows "The wire protocol" and "Connection files" of the Jupyter documentation, in the version of
jupyter_client. Its `Session` does the same at several times the cost: it takes a millisecond to be
made, parses dates, keeps digests, adapts versions, and raises what it likes.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from typing import Any, Literal

from jupyter_client import protocol_version
from jupyter_client.session import DELIM

from era_kernels.concurrency.cooperative import Stepwise
from era_kernels.json_incremental import (
    CHUNK_CHARS,
    LARGE_BYTES,
    iterencode,
    iterparse,
    iterparse_encoding_items,
)
from era_kernels.kernels.zmtp import Part
from era_kernels.models import JsonObject

Transport = Literal["ipc", "tcp"]

MAX_VALUES = 1_000_000  # lists, objects and their items in one part; each takes some 64 bytes here
MAX_VALUES_AT_ONCE = 5000  # values that are parsed in one step
MAX_HEADER_BYTES = 64 * 1024  # bytes of a header, which names a message and its sender
MAX_DEPTH = 102  # of nested JSON: a MIME bundle may have 100 levels

_CONNECTION_FILE = "kernel.json"
_DUMP_FILE = "dump"
_PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
_LOOPBACK = "127.0.0.1"
# JSON knows no NaN and no infinities, though Python's parser does.
_json_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_json_decoder = json.JSONDecoder(parse_constant=lambda _: None)


class InvalidMessage(Exception):
    """Reports bytes from a kernel that are no message signed by it; the text is a constant."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """Names the five sockets of a kernel and the key of its messages.

    They are unix sockets in `directory`, or with `tcp_ports` the ports of shell, iopub, stdin,
    control and heartbeat on 127.0.0.1. `sandbox_directory` is the same directory as the kernel sees
    it. The longest path is that of `directory` and 4 bytes; a unix socket's path may have 107.
    `separator` stands before its number: "-" as in jupyter_client, or what a kernel uses instead.
    With `connects` the server listens, beside the directory, and the kernel connects.
    """

    directory: Path
    sandbox_directory: Path
    key: str
    tcp_ports: tuple[int, ...] | None = None
    separator: str = "-"
    connects: bool = False

    @classmethod
    def new(
        cls,
        directory: Path,
        sandbox_directory: Path | None = None,
        tcp_ports: tuple[int, ...] | None = None,
        separator: str = "-",
        *,
        connects: bool = False,
    ) -> ConnectionInfo:
        """Returns a connection with a new key."""
        inner = sandbox_directory or directory
        key = secrets.token_hex(32)
        return cls(directory, inner, key, tcp_ports, separator, connects)

    @property
    def transport(self) -> Transport:
        """How the server speaks with the kernel."""
        return "ipc" if self.tcp_ports is None else "tcp"

    @property
    def file_in_sandbox(self) -> Path:
        """The path of the connection file as the kernel sees it."""
        return self.sandbox_directory / _CONNECTION_FILE

    def socket_path(self, channel: str) -> Path:
        """Returns the path of the unix socket `shell`, `iopub`, `stdin`, `control` or `hb`."""
        return Path(f"{self._prefix(self.directory)}{self.separator}{_PORTS[channel]}")

    def _prefix(self, directory: Path) -> str:
        """Returns the paths of the sockets without separator and number."""
        return f"{directory}.k" if self.connects else f"{directory}/k"

    def tcp_port(self, channel: str) -> int:
        """Returns the port of that socket. Raises ValueError where it has a path instead."""
        if self.tcp_ports is None:
            raise ValueError("the kernel's sockets are unix sockets")
        return self.tcp_ports[_PORTS[channel] - 1]

    @property
    def dump_file(self) -> Path:
        """The file to which a blocked kernel writes its stack, if its language supports that."""
        return self.directory / _DUMP_FILE

    def address(self, channel: str) -> str:
        """Returns a socket as a ZeroMQ address, with its path outside of the sandbox."""
        if self.tcp_ports is not None:
            return f"tcp://{_LOOPBACK}:{self.tcp_port(channel)}"
        return f"ipc://{self.socket_path(channel)}"

    def write_file(self, *, heartbeat: bool = True) -> None:
        """Writes the connection file, for the directory's owner only. Blocking; raises OSError.

        Without `heartbeat` the file does not name that socket, which is never used here. Most
        kernels do not start without its name. `connect` is ours: see the class.
        """
        numbers = self.tcp_ports or _PORTS.values()
        ports = {f"{channel}_port": number for channel, number in zip(_PORTS, numbers, strict=True)}
        if not heartbeat:
            del ports["hb_port"]
        content = {
            "transport": self.transport,
            "ip": self._prefix(self.sandbox_directory) if self.tcp_ports is None else _LOOPBACK,
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            "dump": f"{self.sandbox_directory}/{_DUMP_FILE}",
            **({"connect": True} if self.connects else {}),
            **ports,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        number = os.open(self.directory / _CONNECTION_FILE, flags, 0o600)
        with os.fdopen(number, "w") as file:
            json.dump(content, file)
            os.fchown(number, self.directory.stat().st_uid, -1)


@dataclass(frozen=True, slots=True)
class Message:
    """Holds a message from a kernel.

    `parent_id` is the id of the request that it answers, or "". `size` is that of its content in
    bytes.
    """

    msg_type: str
    parent_id: str
    content: JsonObject
    size: int


class MessageCodec:
    """Packs requests and unpacks messages, with one kernel's key."""

    def __init__(self, key: str) -> None:
        self._digest = hmac.new(key.encode(), digestmod="sha256")
        self._session = secrets.token_hex(8)
        self._count = 0  # of the messages

    def pack(
        self, msg_type: str, content: JsonObject, metadata: JsonObject | None = None
    ) -> tuple[str, list[bytes]]:
        """Returns a request's id and its signed parts."""
        message_id, parts = self._begin(msg_type, metadata)
        parts.append(_encode(content))
        return message_id, [DELIM, self._sign(parts), *parts]

    def pack_stepwise(
        self, msg_type: str, content: JsonObject, metadata: JsonObject | None = None
    ) -> tuple[str, Stepwise[list[bytes]]]:
        """Returns a request's id, and the steps that make its signed parts: for long code."""
        message_id, parts = self._begin(msg_type, metadata)
        return message_id, self._end_stepwise(parts, content)

    def _begin(self, msg_type: str, metadata: JsonObject | None) -> tuple[str, list[bytes]]:
        """Returns the id of a new message, and its parts up to the content."""
        message_id = f"{self._session}_{self._count}"
        self._count += 1
        header = {
            "msg_id": message_id,
            "msg_type": msg_type,
            "username": "era",
            "session": self._session,
            "date": datetime.now(UTC).isoformat(),
            "version": protocol_version,
        }
        return message_id, [_encode(header), b"{}", _encode(metadata or {})]

    def _end_stepwise(self, parts: list[bytes], content: JsonObject) -> Stepwise[list[bytes]]:
        """Returns all parts of a message, with the content made and signed in steps."""
        pieces = []
        for piece in iterencode(content):
            pieces.append(piece)
            yield
        parts.append(b"".join(pieces))
        return [DELIM, (yield from self._sign_stepwise(parts)), *parts]

    def unpack(self, parts: Sequence[Part]) -> Message:
        """Returns the message in the parts.

        Raises InvalidMessage when they are none, or the signature is wrong.
        """
        signature, *signed = _split_signed(parts)
        if not compare_digest(self._sign(signed), signature):
            raise InvalidMessage("the signature is wrong")
        header, parent, _, content = signed
        return _to_message(_parse(header), _parse(parent), _parse(content), len(content))

    def unpack_stepwise(self, parts: Sequence[Part]) -> Stepwise[Message]:
        """Does the same as `unpack` in steps, for a message that `is_slow_to_unpack`."""
        signature, *signed = _split_signed(parts)
        if not compare_digest((yield from self._sign_stepwise(signed)), signature):
            raise InvalidMessage("the signature is wrong")
        header, parent, _, content = signed
        size, parsed_header = len(content), (yield from _parse_stepwise(header))
        parsed_parent = yield from _parse_stepwise(parent)
        parse = _PARSERS.get(str(parsed_header.get("msg_type")), _parse_stepwise)
        return _to_message(parsed_header, parsed_parent, (yield from parse(content)), size)

    def _sign(self, parts: Sequence[Part]) -> bytes:
        """Returns the signature of the parts."""
        digest = self._digest.copy()
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()

    def _sign_stepwise(self, parts: Sequence[Part]) -> Stepwise[bytes]:
        """Returns the same as `_sign`, in steps."""
        digest = self._digest.copy()
        for part in parts:
            for start in range(0, len(part), CHUNK_CHARS):
                digest.update(memoryview(part)[start : start + CHUNK_CHARS])
                yield
        return digest.hexdigest().encode()


def is_slow_to_unpack(parts: Sequence[Part]) -> bool:
    """Returns whether unpacking a message at once would block the loop for too long."""
    size = sum(map(len, parts))
    if size <= MAX_VALUES_AT_ONCE:  # a value takes a byte at least
        return False
    if size > LARGE_BYTES:
        return True
    return any(map(_has_many_values, parts))


def count_values_stepwise(parts: Sequence[Part]) -> Stepwise[int]:
    """Returns the most values that a message can have: of JSON, and no more than are accepted."""
    total = 0
    for part in parts:
        for start in range(0, len(part), LARGE_BYTES):
            total += _count_values(part[start : start + LARGE_BYTES])
            yield
    return min(total, MAX_VALUES)


def _split_signed(parts: Sequence[Part]) -> Sequence[Part]:
    """Returns the signature and the four parts that it signs."""
    try:
        start = parts.index(DELIM) + 1
    except ValueError as error:
        raise InvalidMessage("parts are missing") from error
    if len(parts) < start + 5:
        raise InvalidMessage("parts are missing")
    signed = parts[start : start + 5]
    if max(map(len, signed[1:3])) > MAX_HEADER_BYTES:
        raise InvalidMessage("a header is too long")
    return signed


def _to_message(
    header: JsonObject, parent_header: JsonObject, content: JsonObject, size: int
) -> Message:
    msg_type, parent_id = header.get("msg_type"), parent_header.get("msg_id", "")
    if not isinstance(msg_type, str) or not isinstance(parent_id, str):
        raise InvalidMessage("a header has the wrong shape")
    return Message(msg_type, parent_id, content, size)


def _encode(value: JsonObject) -> bytes:
    return _json_encoder.encode(value).encode("utf-8", "surrogateescape")


def _parse(part: Part) -> JsonObject:
    """Parses a JSON object. Bytes that are not UTF-8 become U+FFFD: a program may print any."""
    try:
        value: Any = _json_decoder.decode(part.decode("utf-8", "replace"))
    # Deep nesting, numbers of thousands of digits, too much data: each raises another error.
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidMessage("a part is no JSON") from error
    return _require_object(value)


def _parse_stepwise(part: Part) -> Stepwise[JsonObject]:
    return _to_object_stepwise(iterparse(part, MAX_VALUES, MAX_DEPTH))


def _parse_rich_output_stepwise(part: Part) -> Stepwise[JsonObject]:
    """Does the same with `EncodedJson` for large items of MIME bundles: they are only passed on."""
    names = frozenset({"data", "metadata"})
    return _to_object_stepwise(iterparse_encoding_items(part, MAX_VALUES, MAX_DEPTH, names))


_PARSERS = {
    "display_data": _parse_rich_output_stepwise,
    "update_display_data": _parse_rich_output_stepwise,
    "execute_result": _parse_rich_output_stepwise,
}


def _to_object_stepwise(steps: Stepwise[Any]) -> Stepwise[JsonObject]:
    # Hostile JSON: each `[],` takes 3 bytes in the text and 64 in memory.
    try:
        value = yield from steps
    except (ValueError, MemoryError) as error:
        raise InvalidMessage("a part is no JSON, or too much of it") from error
    return _require_object(value)


def _require_object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidMessage("a part is no JSON object")
    return value


def _count_values(part: Part) -> int:
    """Returns the most values that the JSON text can have."""
    return part.count(b",") + part.count(b"[") + part.count(b"{")


def _has_many_values(part: Part) -> bool:
    """Returns whether a JSON text has very many values, or strings, outside of its strings."""
    if _count_values(part) <= MAX_VALUES_AT_ONCE:
        return False
    unescaped = part.replace(rb"\\", b"").replace(rb"\"", b"")
    if unescaped.count(b'"') > 2 * MAX_VALUES_AT_ONCE:  # to split these would take long itself
        return True
    return _count_values(b"".join(unescaped.split(b'"')[::2])) > MAX_VALUES_AT_ONCE

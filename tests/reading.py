"""Readers of a stream as networks make them: slow ones, and ones whose connection breaks."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.client import Frame, frames

SILENCE = 60.0  # seconds after which a stream that says nothing is broken


@dataclass
class Reader:
    """Keeps the complete frames that it got, over all its connections, and goes on after them.

    It takes `piece` bytes at once and pauses for so many seconds after each. A small `receive`
    leaves hardly any room for what waits meanwhile.
    """

    piece: int = 65_536
    pause: float = 0.0
    receive: int | None = None
    frames: list[Frame] = field(default_factory=list)
    connections: int = 0

    @property
    def last_seq(self) -> int:
        return self.frames[-1].id if self.frames else 0

    @property
    def ended(self) -> bool:
        return bool(self.frames) and self.frames[-1].event == "done"

    def text(self, stream: str = "stdout") -> str:
        return "".join(one.data["content"] for one in self.frames if one.event == stream)

    def read(self, base_url: str, path: str, most: float = float("inf")) -> Reader:
        """Until the stream ends, the server is gone, or so many bytes have come."""
        self.connections += 1
        with opened(base_url, path, self.last_seq, self.receive) as wire:
            for frame in _frames(self._pieces(wire, most)):
                self.frames.append(frame)
        return self

    def _pieces(self, wire: socket.socket, most: float) -> Iterator[bytes]:
        with suppress(ConnectionError):
            while most > 0 and (data := wire.recv(int(min(self.piece, most)))):
                most -= len(data)
                yield data
                time.sleep(self.pause)


def slow() -> Reader:
    """Takes less than a program can print."""
    return Reader(piece=16_384, pause=0.02, receive=16_384)


def read_in_parts(
    base_url: str, path: str, cuts: int, longest: int, chance: random.Random
) -> Reader:
    """Cut off so often, each time after at most `longest` bytes, and then read to the end."""
    reader = Reader()
    for _ in range(cuts):
        reader.read(base_url, path, chance.randrange(1, longest))
    return reader.read(base_url, path)


@contextmanager
def opened(
    base_url: str, path: str, last_seq: int = 0, receive: int | None = None
) -> Iterator[socket.socket]:
    """A connection to a stream whose head has been read. HTTP/1.0: the body ends with it."""
    host, port = base_url.removeprefix("http://").split(":")
    with closing(socket.socket()) as wire:
        wire.settimeout(SILENCE)
        if receive is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        wire.connect((host, int(port)))
        head = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nLast-Event-ID: {last_seq}\r\n\r\n"
        wire.sendall(head.encode())
        _head(wire)
        yield wire


def started(base_url: str, session: str, code: str, **body: Any) -> str:
    """Begin a run and leave at once; the path of its stream."""
    host, port = base_url.removeprefix("http://").split(":")
    data = json.dumps({"code": code, **body}).encode()
    with socket.create_connection((host, int(port)), timeout=SILENCE) as wire:
        head = f"POST /api/sessions/{session}/stream HTTP/1.0\r\nHost: {host}:{port}\r\n"
        wire.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        execution = _head(wire)["x-execution-id"]
    return f"/api/sessions/{session}/executions/{execution}/stream"


def _head(wire: socket.socket) -> dict[str, str]:
    """The headers of an answer that is a success, by their names in lower case."""
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        byte = wire.recv(1)
        assert byte, got
        got += byte
    status, *lines = got.decode().strip().split("\r\n")
    assert " 200 " in status, got
    named = [line.partition(": ") for line in lines]
    return {name.lower(): value for name, _, value in named}


def _frames(pieces: Iterator[bytes]) -> Iterator[Frame]:
    """The complete frames; what a cut left of another one is dropped."""
    rest = b""
    for data in pieces:
        *blocks, rest = (rest + data).split(b"\n\n")
        for block in blocks:
            yield from frames(iter([*block.decode().split("\n"), ""]))

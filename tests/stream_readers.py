"""Readers of event streams: slow ones, and ones whose connections break."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.client import SseEvent, parse_sse

SILENCE_TIMEOUT = 60.0  # seconds after which a silent stream counts as broken


@dataclass
class StreamReader:
    """Reads a stream over one connection after the other, and keeps the complete frames.

    The reader takes `chunk_size` bytes at once and pauses for `chunk_pause` seconds after each. A
    small `receive_buffer` leaves hardly any room for bytes that wait meanwhile.
    """

    chunk_size: int = 65_536
    chunk_pause: float = 0.0
    receive_buffer: int | None = None
    events: list[SseEvent] = field(default_factory=list)
    connection_count: int = 0

    @property
    def last_seq(self) -> int:
        return self.events[-1].id if self.events else 0

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and self.events[-1].event == "done"

    def text(self, stream: str = "stdout") -> str:
        return "".join(one.data["content"] for one in self.events if one.event == stream)

    def read(self, base_url: str, path: str, max_bytes: float = float("inf")) -> StreamReader:
        """Reads until the stream ends, the server is gone, or so many bytes have come."""
        self.connection_count += 1
        with connect_to_stream(base_url, path, self.last_seq, self.receive_buffer) as sock:
            for event in _complete_events(self._chunks(sock, max_bytes)):
                self.events.append(event)
        return self

    def _chunks(self, sock: socket.socket, max_bytes: float) -> Iterator[bytes]:
        with suppress(ConnectionError):
            while max_bytes > 0 and (data := sock.recv(int(min(self.chunk_size, max_bytes)))):
                max_bytes -= len(data)
                yield data
                time.sleep(self.chunk_pause)


def slow_stream_reader() -> StreamReader:
    """Makes a reader that is slower than a program can print."""
    return StreamReader(chunk_size=16_384, chunk_pause=0.02, receive_buffer=16_384)


def read_in_parts(
    base_url: str, path: str, cuts: int, max_part: int, rng: random.Random
) -> StreamReader:
    """Reads over `cuts` broken connections of less than `max_part` bytes, then to the end."""
    reader = StreamReader()
    for _ in range(cuts):
        reader.read(base_url, path, rng.randrange(1, max_part))
    return reader.read(base_url, path)


@contextmanager
def connect_to_stream(
    base_url: str, path: str, last_seq: int = 0, receive_buffer: int | None = None
) -> Iterator[socket.socket]:
    """Connects to a stream and reads its head. HTTP/1.0: the body ends with the connection."""
    host, port = base_url.removeprefix("http://").split(":")
    with closing(socket.socket()) as sock:
        sock.settimeout(SILENCE_TIMEOUT)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect((host, int(port)))
        head = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nLast-Event-ID: {last_seq}\r\n\r\n"
        sock.sendall(head.encode())
        _read_headers(sock)
        yield sock


def start_run(base_url: str, session: str, code: str, **body: Any) -> str:
    """Starts a run, disconnects at once, and returns the path of the run's stream."""
    host, port = base_url.removeprefix("http://").split(":")
    data = json.dumps({"code": code, **body}).encode()
    with socket.create_connection((host, int(port)), timeout=SILENCE_TIMEOUT) as sock:
        head = f"POST /api/sessions/{session}/stream HTTP/1.0\r\nHost: {host}:{port}\r\n"
        sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        execution = _read_headers(sock)["x-execution-id"]
    return f"/api/sessions/{session}/executions/{execution}/stream"


def _read_headers(sock: socket.socket) -> dict[str, str]:
    """Returns the headers of a successful response, by their names in lower case."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, received
        received += byte
    status, *lines = received.decode().strip().split("\r\n")
    assert " 200 " in status, received
    named = [line.partition(": ") for line in lines]
    return {name.lower(): value for name, _, value in named}


def _complete_events(chunks: Iterator[bytes]) -> Iterator[SseEvent]:
    """Yields the events of complete frames; an incomplete frame is dropped."""
    rest = b""
    for data in chunks:
        *blocks, rest = (rest + data).split(b"\n\n")
        for block in blocks:
            yield from parse_sse(iter([*block.decode().split("\n"), ""]))

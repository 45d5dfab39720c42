"""What a program sends without a pause leaves the loop to others, whatever its pieces are."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest
from tornado.iostream import IOStream

from era_kernels.errors import BadGateway
from era_kernels.web import tunnel, upstream
from era_kernels.web.upstream import Upstream

OK = b"HTTP/1.1 200 OK\r\n"
ONE_BYTE = b"1\r\nx\r\n"


class Rounds:
    """Counts the rounds of the loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._call = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self.count += 1
        self._call = self._loop.call_soon(self._begin)

    def close(self) -> None:
        self._call.cancel()


def ends(sent: bytes) -> tuple[socket.socket, socket.socket]:
    """Returns both ends of a connection, on the second of which these bytes have been sent."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    theirs.setblocking(False)
    assert theirs.send(sent) == len(sent)
    return ours, theirs


async def asked(ours: socket.socket) -> Upstream:
    """Returns a connection on which a request was sent."""
    one = Upstream(ours)
    await one.send_head("GET", "/", [("Host", "a"), ("Connection", "close")])
    await one.end_body()
    return one


@pytest.mark.parametrize(
    ("head", "piece"),
    [(b"Transfer-Encoding: chunked\r\n", ONE_BYTE), (b"", bytes(1024))],
    ids=["chunks", "small reads"],
)
async def test_each_piece_of_a_body_has_a_round(
    monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes
) -> None:
    """Between two pieces others have their turn, and no piece takes long to be parsed."""
    monkeypatch.setattr(upstream, "READ_BYTES", 6000)
    ours, theirs = ends(OK + head + b"\r\n" + piece * (120_000 // len(piece)))
    one = await asked(ours)
    await one.read_head()
    assert len(one.take_received_body()) <= max(upstream.MAX_AT_ONCE, 6000)
    rounds, seen = Rounds(), list[int]()
    async for chunk in one.body():
        assert len(chunk) <= max(upstream.MAX_AT_ONCE + 1, 6000)
        seen.append(rounds.count)
        if len(seen) == 15:
            break
    rounds.close()
    one.close()
    theirs.close()
    assert len(set(seen)) == 15


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ((b"HTTP/1.1 103 Early\r\n" + b"a: b\r\n" * 10_000 + b"\r\n") * 8, "more than 256 KiB"),
        (OK + b"a: b\r\n" * (upstream.MAX_FIELDS + 1) + b"\r\n", "more than 1000 headers"),
    ],
    ids=["answers 1xx", "headers"],
)
async def test_heads_are_bounded(sent: bytes, sentence: str) -> None:
    """All heads of an answer together have one bound, and others have their turn between reads."""
    ours, theirs = ends(sent)
    one, rounds = await asked(ours), Rounds()
    with pytest.raises(BadGateway, match=re.escape(sentence)):
        await one.read_head()
    reads = min(len(sent), upstream.MAX_HEAD) // upstream.READ_BYTES
    assert rounds.count >= reads
    rounds.close()
    one.close()
    theirs.close()


async def test_many_headers_that_are_allowed() -> None:
    """A head as large as it may be is passed on."""
    lines = b"".join(b"a%d: %s\r\n" % (number, b"b" * 200) for number in range(upstream.MAX_FIELDS))
    ours, theirs = ends(b"HTTP/1.1 103 Early\r\n\r\n" + OK + lines + b"\r\n")
    one = await asked(ours)
    assert len((await one.read_head())[2]) == upstream.MAX_FIELDS
    one.close()
    theirs.close()


async def test_each_piece_of_a_tunnel_has_a_round() -> None:
    """A program whose small pieces are always there does not keep the loop for itself."""
    ours, theirs = ends(bytes(30_000))
    near, far = socket.socketpair()
    rounds, seen = Rounds(), list[int]()

    async def note_round() -> None:
        seen.append(rounds.count)

    theirs.close()
    await tunnel.join_streams(IOStream(ours, read_chunk_size=1000), IOStream(near), note_round)
    rounds.close()
    for one in (ours, near, far):
        one.close()
    assert len(set(seen)) == len(seen) == 30

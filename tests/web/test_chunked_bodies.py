"""Bodies of many small chunks are read in turns, and leave the loop to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from tornado.iostream import IOStream

from era_kernels.concurrency.turns import GROUP_SIZE
from era_kernels.web import chunked_bodies
from era_kernels.web.chunked_bodies import CHUNKS_AT_ONCE
from tests.web.test_storage_listener import Served, parse, serving

HEAD = (
    b"PUT /api/storage/kv/app?key=a HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
READ_UNTIL = IOStream.read_until
BODIES = 8  # of one session, which are in work at the same time
SMALL = b"1\r\n \r\n" * 20_000


@asynccontextmanager
async def sending(served: Served, data: bytes) -> AsyncIterator[None]:
    """Several clients have sent the head and a part of such a body."""
    writers = []
    for _ in range(BODIES):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(HEAD + data)
        writers.append(writer)
    try:
        yield
    finally:
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def most_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most chunks that were read between two turns of a task that always wants the loop."""
    count = seen = most = 0

    def counted(stream: IOStream, *args: Any) -> Awaitable[bytes]:
        nonlocal count
        count += 1
        return READ_UNTIL(stream, *args)

    async def watch() -> None:
        nonlocal seen, most
        while count < 60 * CHUNKS_AT_ONCE:
            await asyncio.sleep(0)
            if seen > 2 * BODIES * CHUNKS_AT_ONCE:  # before its first turn a body goes further
                most = max(most, count - seen)
            seen = count

    monkeypatch.setattr(IOStream, "read_until", counted)
    watcher = asyncio.create_task(watch())
    async with sending(served, SMALL):
        await watcher
    return most


async def test_small_chunks_leave_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bodies go on in one round of the loop, each by a few chunks: however many there are."""
    async with serving() as served:
        in_turns = await most_at_once(served, monkeypatch)
    monkeypatch.setattr(chunked_bodies, "CHUNKS_AT_ONCE", 10**9)
    async with serving() as served:
        without = await most_at_once(served, monkeypatch)
    assert in_turns <= 2 * GROUP_SIZE * CHUNKS_AT_ONCE < without


@pytest.mark.parametrize("size", [1, 100, 5000])
async def test_a_body_is_whole(size: int) -> None:
    """The chunks of a body are its bytes, whether they are small or not."""
    text = b'{"value": "' + b"x" * (CHUNKS_AT_ONCE * 3) + b'"}'
    if size > 100:
        text = b'{"value": "' + b"x" * (CHUNKS_AT_ONCE * 3 * size) + b'"}'
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    async with serving() as served:
        status, answer = parse(await served.send(HEAD + data + b"0\r\n\r\n"))
        assert (status, answer["success"]) == (200, True)
        stored = served.memory.values["app", "a"]["value"]
        assert len(stored) == len(text) - len('{"value": ""}')


async def test_an_end_does_not_wait_for_turns() -> None:
    """What has come of such bodies is dropped when their connections are closed."""
    async with serving() as served, sending(served, SMALL):
        await asyncio.sleep(0.2)
        await asyncio.wait_for(served.listener.aclose(), 2)

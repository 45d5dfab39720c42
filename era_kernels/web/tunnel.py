"""Joins two connections: what comes on one goes out on the other, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tornado.iostream import IOStream, StreamClosedError

CHUNK_BYTES = 64 * 1024  # that are read at once; as much is on its way in each direction


async def join_streams(
    one: IOStream, other: IOStream, wait_for_turn: Callable[[], Awaitable[None]]
) -> None:
    """Passes on bytes in both directions until either end closes its connection.

    What that end sent before is passed on first. Who does not read is not read from, either.
    """
    directions = {
        asyncio.create_task(_copy(one, other, wait_for_turn)),
        asyncio.create_task(_copy(other, one, wait_for_turn)),
    }
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for direction in directions:
            direction.cancel()
        await asyncio.wait(directions)


async def _copy(
    source: IOStream, target: IOStream, wait_for_turn: Callable[[], Awaitable[None]]
) -> None:
    try:
        while True:
            data = await source.read_bytes(CHUNK_BYTES, partial=True)
            await wait_for_turn()
            await target.write(data)
            await asyncio.sleep(0)  # nothing here waits while there is more to read
    except StreamClosedError:
        return

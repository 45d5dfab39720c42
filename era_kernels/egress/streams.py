"""Reads and writes sockets on the event loop, a piece at a time, and joins two of them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

CHUNK_BYTES = 64 * 1024  # on their way at once, in each direction of a connection
_DRAIN_TIMEOUT = 2.0  # seconds for the client to read what it is told
_DRAIN_BYTES = 16 * 1024 * 1024  # of a body that nobody wants
_NO_LINGER = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: what is not sent is dropped


async def receive(source: socket.socket) -> bytes:
    """Returns the next bytes, none at the end. Raises OSError."""
    return await asyncio.get_running_loop().sock_recv(source, CHUNK_BYTES)


async def send(target: socket.socket, data: bytes) -> None:
    """Returns when the system has taken all bytes; other tasks get their turn. Raises OSError."""
    await asyncio.get_running_loop().sock_sendall(target, data)
    await asyncio.sleep(0)  # a fast reader would keep the loop for itself


async def join(one: socket.socket, other: socket.socket, on_moved: Callable[[], None]) -> None:
    """Passes on bytes in both directions until both ends have closed theirs. Raises OSError.

    Who does not read is not read from, either. `on_moved` is called whenever bytes were passed on.
    """
    directions = {
        asyncio.create_task(_copy(one, other, on_moved)),
        asyncio.create_task(_copy(other, one, on_moved)),
    }
    try:
        done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_EXCEPTION)
        for direction in done:
            direction.result()
    finally:
        await cancel_all(directions)


async def _copy(source: socket.socket, target: socket.socket, on_moved: Callable[[], None]) -> None:
    while data := await receive(source):
        await send(target, data)
        on_moved()
    with suppress(OSError):  # it may have gone already
        target.shutdown(socket.SHUT_WR)


async def cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels tasks and waits for their ends; what they raise is dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def drain(source: socket.socket) -> None:
    """Ends what is sent, and reads on for a while: a close with bytes unread loses what was sent.

    Raises OSError.
    """
    source.shutdown(socket.SHUT_WR)
    count = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            while count < _DRAIN_BYTES and (data := await receive(source)):
                count += len(data)
                await asyncio.sleep(0)


def reset_on_close(connection: socket.socket) -> None:
    """Lets a close end a connection as broken: its peer must not take it for a regular end."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

"""Sends events to clients as server-sent events, as frames with the number of the event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

from era_kernels import json_codec, json_incremental
from era_kernels.concurrency.background import cancel_and_wait
from era_kernels.concurrency.cooperative import Yielder
from era_kernels.errors import EraError
from era_kernels.models import ErrorEvent, JsonObject, LoggedEvent, event_to_json
from era_kernels.web.base_handler import BaseHandler, ClientDisconnected

log = logging.getLogger(__name__)

MAX_WRITE_BYTES = 256 * 1024  # bytes that are written at once
FRAMES_PER_SLICE = 32  # frames that are encoded before other tasks may run
EVENT_STREAM_TYPE = "text/event-stream; charset=utf-8"
KEEPALIVE = b": still here\n\n"

# Characters that end a line for some readers, though not in the standard.
_LINE_ENDS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def encode_frame(seq: int, event: JsonObject) -> bytes:
    """Returns an event as a frame: `id`, `event` and exactly one line of `data`."""
    data = _escape_line_ends(json_codec.dumps(event))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, event["type"].encode(), data)


def run_event_to_json(item: LoggedEvent) -> JsonObject:
    """Returns an event as the frames of a run show it."""
    event = event_to_json(item.event)
    if item.event.type == "done":
        del event["data"]  # the log keeps it; the contract's frame has none
    return event


async def encode_batch(
    batch: Iterable[LoggedEvent], to_json: Callable[[LoggedEvent], JsonObject] = run_event_to_json
) -> AsyncIterator[bytes]:
    """Yields a batch as bytes: short frames joined, a long frame in pieces of little time each."""
    pending: list[bytes] = []
    size = 0
    for number, item in enumerate(batch, 1):
        if number % FRAMES_PER_SLICE == 0:
            await asyncio.sleep(0)
        event = to_json(item)
        if json_incremental.estimate_size(event) <= json_incremental.LARGE_BYTES:
            pending.append(encode_frame(item.seq, event))
            size += len(pending[-1])
        else:
            yield b"".join(pending)
            pending, size = [], 0
            async for piece in _encode_long_frame(item.seq, event):
                yield piece
        if size > MAX_WRITE_BYTES:
            yield b"".join(pending)
            pending, size = [], 0
            await asyncio.sleep(0)
    yield b"".join(pending)


async def _encode_long_frame(seq: int, event: JsonObject) -> AsyncIterator[bytes]:
    yield b"id: %d\nevent: %b\ndata: " % (seq, event["type"].encode())
    yielder = Yielder()
    for piece in json_codec.iterdumps(event):
        if piece:
            yield _escape_line_ends(piece)
        await yielder.checkpoint()
    yield b"\n\n"


def _escape_line_ends(data: bytes) -> bytes:
    if not data.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


class EventStream:
    """Sends batches of events to one client, with comments while nothing happens."""

    def __init__(
        self,
        handler: BaseHandler,
        to_json: Callable[[LoggedEvent], JsonObject] = run_event_to_json,
    ) -> None:
        self._handler = handler
        self._to_json = to_json
        self._last_seq = 0

    async def send(
        self,
        batches: AsyncIterator[list[LoggedEvent]],
        after: int = 0,
        first_batch: list[LoggedEvent] | None = None,
    ) -> None:
        """Sends batches until the last event or until the client leaves.

        The head of the answer goes out at once, so that what fails later is an `error` frame.
        `first_batch` was taken from `batches` already. Memory is bounded: the next batch is taken
        when the client took the last one.
        """
        self._last_seq = after
        try:
            self._set_headers()
            await self._handler.send(b"")
            if first_batch is not None:
                await self._send_batch(first_batch)
            while (batch := await self._wait_for_batch(batches)) is not None:
                await self._send_batch(batch)
        except ClientDisconnected:
            return
        except Exception as error:
            await self._send_error(error)

    async def _send_batch(self, batch: list[LoggedEvent]) -> None:
        self._last_seq = batch[-1].seq
        async for piece in encode_batch(batch, self._to_json):
            if piece:
                await self._handler.send(piece)

    async def _wait_for_batch(
        self, batches: AsyncIterator[list[LoggedEvent]]
    ) -> list[LoggedEvent] | None:
        """Returns the next batch, None after the last; sends comments while waiting.

        Raises ClientDisconnected.
        """
        next_batch = asyncio.ensure_future(_next_or_none(batches))
        try:
            while not await self._handler.wait(
                next_batch, self._handler.context.keepalive_interval
            ):
                await self._handler.send(KEEPALIVE)
            return next_batch.result()
        finally:
            await cancel_and_wait(next_batch)

    def _set_headers(self) -> None:
        handler = self._handler
        handler.set_header("Content-Type", EVENT_STREAM_TYPE)
        handler.set_header("Cache-Control", "no-cache")
        handler.set_header("X-Accel-Buffering", "no")
        # Nagle's algorithm would hold each small frame for 40 ms.
        handler.request.connection.stream.set_nodelay(True)  # type: ignore[union-attr]

    async def _send_error(self, error: Exception) -> None:
        if not isinstance(error, EraError):
            self._handler.log_exception(type(error), error, error.__traceback__)
            error = self._handler.to_domain_error(error, 500)
        event = event_to_json(ErrorEvent(error.title, error.message, error.code))
        with suppress(ClientDisconnected):
            await self._handler.send(encode_frame(self._last_seq, event))


async def _next_or_none(batches: AsyncIterator[list[LoggedEvent]]) -> list[LoggedEvent] | None:
    return await anext(batches, None)

"""Server-sent events: a run's events as frames, live or again from where a reader left off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable

from era_kernels import json_codec, json_incremental
from era_kernels.concurrency.cooperative import Yielder
from era_kernels.errors import EraError
from era_kernels.models import Failure, JsonObject, Recorded, event_to_json
from era_kernels.web.base import BaseHandler, ClientGone, settled

log = logging.getLogger(__name__)

HOLD = 1.0  # seconds in which the first batch may still turn out to be a plain JSON error
PIECE_BYTES = 256 * 1024  # that are sent at once
FRAMES = 32  # that are made before others have their turn
TYPE = "text/event-stream; charset=utf-8"
COMMENT = b": still here\n\n"

# Characters that some readers take for the end of a line, though the standard does not.
_LINE_ENDS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def frame(seq: int, event: JsonObject) -> bytes:
    """One event: `id`, `event` and exactly one line of `data`."""
    data = _one_line(json_codec.dumps(event))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, event["type"].encode(), data)


def event_of_run(item: Recorded) -> JsonObject:
    """An event as the frames of a run show it."""
    event = event_to_json(item.event)
    if item.event.type == "done":
        del event["data"]  # the log keeps it; the contract's frame has none
    return event


async def pieces(
    batch: Iterable[Recorded], show: Callable[[Recorded], JsonObject] = event_of_run
) -> AsyncIterator[bytes]:
    """A batch as bytes: short frames joined, a long one in pieces that take little time each."""
    waiting: list[bytes] = []
    size = 0
    for number, item in enumerate(batch, 1):
        if number % FRAMES == 0:
            await asyncio.sleep(0)
        shown = show(item)
        if json_incremental.estimate_size(shown) <= json_incremental.LARGE_BYTES:
            waiting.append(frame(item.seq, shown))
            size += len(waiting[-1])
        else:
            yield b"".join(waiting)
            waiting, size = [], 0
            async for piece in _long_frame(item.seq, shown):
                yield piece
        if size > PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


async def _long_frame(seq: int, event: JsonObject) -> AsyncIterator[bytes]:
    yield b"id: %d\nevent: %b\ndata: " % (seq, event["type"].encode())
    pace = Yielder()
    for piece in json_codec.iterdumps(event):
        if piece:
            yield _one_line(piece)
        await pace.checkpoint()
    yield b"\n\n"


def _one_line(data: bytes) -> bytes:
    if not data.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


class EventStream:
    """Sends batches of events to one client, with comments while nothing happens.

    `problem` tells why a run never began; asked once, before the first frame. `hold`: seconds for
    which the first batch is waited for, before the head of the answer goes out without one.
    """

    def __init__(
        self,
        handler: BaseHandler,
        problem: Callable[[], EraError | None] = lambda: None,
        show: Callable[[Recorded], JsonObject] = event_of_run,
        hold: float | None = None,
    ) -> None:
        self._handler = handler
        self._problem = problem
        self._show = show
        self._hold = HOLD if hold is None else hold
        self._last_seq = 0
        self._begun = False

    async def send(self, batches: AsyncIterator[list[Recorded]], after: int = 0) -> None:
        """Until the last event or until the client goes.

        Raises what is wrong before the first frame; later it becomes an `error` frame. Memory is
        bounded: the next batch is taken when the client took the last one.
        """
        self._last_seq = after
        try:
            await self._send(batches)
        except ClientGone:
            return
        except Exception as problem:
            if not self._begun:
                raise
            await self._send_problem(problem)

    async def _send(self, batches: AsyncIterator[list[Recorded]]) -> None:
        while True:
            coming = asyncio.ensure_future(_next(batches))
            try:
                batch = await self._batch(coming)
            finally:
                await settled(coming)
            if batch is None:
                await self._put(b"")
                return
            self._last_seq = batch[-1].seq
            async for piece in pieces(batch, self._show):
                if piece:
                    await self._put(piece)

    async def _batch(self, coming: asyncio.Future[list[Recorded] | None]) -> list[Recorded] | None:
        """The next batch, None after the last; comments while it takes long. Raises ClientGone."""
        pause = self._handler.edge.comment_every if self._begun else self._hold
        while not await self._handler.wait(coming, pause):
            await self._put(COMMENT if self._begun else b"")
            pause = self._handler.edge.comment_every
        batch = coming.result()
        if not self._begun:
            self._check(batch)
        return batch

    def _check(self, batch: list[Recorded] | None) -> None:
        problem = self._problem()
        if problem is not None and batch and isinstance(batch[0].event, Failure):
            raise problem

    async def _put(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._begin()
        await self._handler.send(data)

    def _begin(self) -> None:
        handler = self._handler
        handler.set_header("Content-Type", TYPE)
        handler.set_header("Cache-Control", "no-cache")
        handler.set_header("X-Accel-Buffering", "no")
        # Nagle's algorithm would hold each small frame for 40 ms.
        handler.request.connection.stream.set_nodelay(True)  # type: ignore[union-attr]

    async def _send_problem(self, problem: Exception) -> None:
        if not isinstance(problem, EraError):
            self._handler.log_exception(type(problem), problem, problem.__traceback__)
            problem = self._handler.problem_of(problem, 500)
        failure = event_to_json(Failure(problem.title, problem.message, problem.code))
        await self._put(frame(self._last_seq, failure))


async def _next(batches: AsyncIterator[list[Recorded]]) -> list[Recorded] | None:
    return await anext(batches, None)

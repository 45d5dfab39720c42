"""Holds what has come of a request's body, and parses it without stopping the loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.json_codec import MAX_VALUES, is_quick_to_parse
from era_kernels.json_incremental import free_in_steps
from era_kernels.web import base_request_models

VALUE_BYTES = 64  # bytes that a name or an item takes beside its text
# A body that comes in small pieces with pauses is read in turns: a thousand such pieces at the same
# moment would keep everybody else waiting.
SMALL_CHUNK = 1024  # bytes
PAUSE_SECONDS = 0.05  # seconds before a small piece from which on it counts
MIN_REST, MAX_REST = 0.5, 1.5  # seconds in which such a body is not read; some time in between

M = TypeVar("M", bound=BaseModel)


class Body:
    """Collects the chunks of one body, and parses it."""

    def __init__(self, memory: MemoryInWork, on_stalled: Callable[[], object]) -> None:
        """`on_stalled` ends the request, whose body others wait for in vain."""
        self.length = 0  # bytes that the body has as a whole, once that is known
        self._chunks: list[bytes] = []
        self._value: object = None  # of a large body, as it was parsed
        self._is_freeing = False  # the value
        self._timer: asyncio.TimerHandle | None = None
        self._chunk_at: float | None = None  # when the last piece came
        self._is_trickling = False
        self._holding = memory.open(on_stalled)

    @property
    def size(self) -> int:
        """The bytes that are held."""
        return sum(map(len, self._chunks))

    def add(self, chunk: bytes) -> Awaitable[None] | None:
        """Takes the next chunk; returns what to wait for before the one after it."""
        self._chunks.append(chunk)
        self._holding.set(self._holding.size + len(chunk))
        if not self._holding.may_go_on():
            return self._holding.wait()
        return asyncio.sleep(random.uniform(MIN_REST, MAX_REST)) if self._trickles(chunk) else None

    def _trickles(self, chunk: bytes) -> bool:
        """Returns whether this is a small piece after a pause, neither the first nor the last."""
        before, self._chunk_at = self._chunk_at, time.monotonic()
        if before is None or len(chunk) > SMALL_CHUNK or self._chunk_at - before < PAUSE_SECONDS:
            return False
        was_trickling, self._is_trickling = self._is_trickling, True
        return was_trickling and self._holding.size != self.length

    async def hold(self, size: int) -> None:
        """Counts what is in memory of an upload, and waits until there may be more of it."""
        self._holding.set(size)
        await self._holding.wait()

    def discard_for(self, seconds: float, on_over: Callable[[], None]) -> None:
        """Calls back after a time in which a refused body did not end."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, on_over)

    def take(self) -> bytes:
        """Returns all of the body, which is not held here any more."""
        whole = b"".join(self._chunks)
        self._chunks.clear()
        return whole

    def drop(self) -> None:
        """Lets go of what has come: nobody will read it."""
        self._chunks.clear()
        self._holding.set(0)

    async def parse(self, model: type[BaseModel], data: bytes) -> Any:
        """Returns the JSON of a body for `model`, not validated. Raises InvalidJson, TooLarge."""
        if is_quick_to_parse(data):
            return await base_request_models.loads_for(model)(data)
        self._holding.is_reading = False
        values = min(MAX_VALUES, len(data) // 2)
        self._holding.set(2 * len(data) + values * VALUE_BYTES)
        await self._holding.wait()
        self._value = await base_request_models.loads_for(model)(data)
        self._holding.set(2 * len(data))
        self._holding.settle()
        return self._value

    async def validate(self, model: type[M], value: Any) -> M:
        """Returns what `parse` returned as `model`. Raises InvalidId, InvalidRequest."""
        if self._value is None:
            return base_request_models.validate(model, value)
        return await base_request_models.validate_large(model, value)

    def close(self) -> None:
        """Lets go of everything. A second call does nothing.

        A large value goes in steps, and counts until it is gone.
        """
        self._chunks.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._value is not None:
            self._is_freeing, value, self._value = True, self._value, None
            free_in_steps(value, self._holding.close)
        elif not self._is_freeing:
            self._holding.close()

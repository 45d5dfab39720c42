"""Bounds the memory of kernels' messages that have not arrived completely, or are being unpacked.

One message may be large, and a kernel that sends most of it and then stops would keep that much
memory of the server, for each session of its user. All that is in work shares one bound.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from era_kernels.concurrency.cooperative import run_cooperatively
from era_kernels.concurrency.memory_in_work import MINIMUM_BYTES, Holding, MemoryInWork
from era_kernels.kernels.wire_protocol import count_values_stepwise
from era_kernels.kernels.zmtp import Part

UNPACKED_FACTOR = 3  # bytes of a message and of its texts, for each byte of the message
VALUE_BYTES = 80  # bytes that an array, an object or an item takes beside its text

OnEvict = Callable[[], None]


class ReceiveBudget:
    """Counts the bytes of messages by owner.

    Past the bound of `memory` an owner of a large message has to rest; one that stands still while
    others rest is evicted: an honest message of any size is complete within a second or so.
    """

    def __init__(self, memory: MemoryInWork | None = None) -> None:
        self._memory = memory or MemoryInWork()
        self._holdings: dict[object, Holding] = {}

    def update(self, owner: object, size: int, on_evict: OnEvict) -> None:
        """Sets how many bytes of one message are there; `on_evict` ends the wait for the rest."""
        holding = self._holdings.get(owner)
        if holding is None:
            if size <= MINIMUM_BYTES:
                return
            holding = self._holdings[owner] = self._memory.open(on_evict)
        if size != holding.size:
            holding.set(size)

    def may_read(self, owner: object) -> bool:
        """Returns whether more of the owner's message may be read; else it asks again."""
        holding = self._holdings.get(owner)
        return holding is None or holding.may_go_on()

    def release(self, owner: object) -> None:
        """Stops counting the owner's message; does nothing when none is counted."""
        holding = self._holdings.pop(owner, None)
        if holding is not None:
            holding.close()

    @asynccontextmanager
    async def unpacking(self, parts: Sequence[Part]) -> AsyncIterator[Holding]:
        """Counts a message while it is unpacked; waits before where memory is short.

        A message that waits takes only its own bytes; its values may take more than their text.
        Yields what counts it, for whoever knows better what it takes.
        """
        size = sum(map(len, parts))
        holding = self._memory.open()
        holding.is_reading = False
        holding.set(size)
        try:
            values = await run_cooperatively(count_values_stepwise(parts))
            del parts
            await holding.wait()
            holding.set(size * UNPACKED_FACTOR + values * VALUE_BYTES)
            yield holding
        finally:
            holding.close()

"""Messages of kernels share the memory of all that comes in, also while they are unpacked."""

from __future__ import annotations

import asyncio

from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.kernels.receive_budget import UNPACKED_FACTOR, ReceiveBudget

MIB = 1024**2


async def test_messages_are_unpacked_one_after_the_other_where_memory_is_short() -> None:
    """Past the bound one large message is unpacked alone; the others take only their own bytes."""
    memory, most = MemoryInWork(20 * MIB), 0
    budget = ReceiveBudget(memory)

    async def unpack() -> None:
        nonlocal most
        async with budget.unpacking([bytes(8 * MIB)]):
            most = max(most, memory.total)
            await asyncio.sleep(0.01)

    async with asyncio.timeout(20):
        await asyncio.gather(*(unpack() for _ in range(10)))
    assert memory.total == 0
    assert most <= 10 * 8 * MIB + (UNPACKED_FACTOR - 1) * 8 * MIB


async def test_a_wait_that_is_cancelled_leaves_nothing() -> None:
    """A kernel that ends takes its messages along, also those that wait."""
    memory = MemoryInWork(2 * MIB)
    budget = ReceiveBudget(memory)
    message = [bytes(2 * MIB)]
    async with budget.unpacking(message), budget.unpacking(message):
        waiting = asyncio.create_task(budget.unpacking(message).__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert memory.total == 0


async def test_small_values_count_more_than_their_text() -> None:
    """A million empty arrays are 3 MB of text."""
    memory = MemoryInWork(20 * MIB)
    async with ReceiveBudget(memory).unpacking([b"[]," * 1_000_000]):
        assert memory.total > 70 * MIB
    async with ReceiveBudget(memory).unpacking([b"x" * 3_000_000]):
        assert memory.total <= UNPACKED_FACTOR * 3_000_000
    assert memory.total == 0

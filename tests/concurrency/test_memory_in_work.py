"""Memory in work: past the bound one goes on alone, each has a minimum, nothing waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.concurrency import memory_in_work
from era_kernels.concurrency.memory_in_work import MINIMUM_BYTES, Holding, MemoryInWork

MIB = 1024**2


async def receive(holding: Holding, size: int, step: int = MIB // 2) -> None:
    """Takes so many bytes, piece by piece, and waits where it must."""
    while holding.size < size:
        await holding.wait()
        holding.set(min(size, holding.size + step))
        await asyncio.sleep(0)


@pytest.mark.parametrize("sizes", [[8] * 10, [1, 2, 30, 2, 1], [12, 11, 10, 9]])
async def test_all_come_to_their_end(sizes: list[int]) -> None:
    """However many want more than there is, one after the other gets it."""
    memory, most = MemoryInWork(10 * MIB), 0

    async def work(size: int) -> None:
        nonlocal most
        holding = memory.open()
        await receive(holding, size * MIB)
        most = max(most, memory.total)
        await asyncio.sleep(0.01)
        holding.close()

    async with asyncio.timeout(20):
        await asyncio.gather(*map(work, sizes))
    assert memory.total == 0
    # The one that goes on alone comes on top of the bound, and so does the minimum of each.
    assert most <= 10 * MIB + max(sizes) * MIB + len(sizes) * (MINIMUM_BYTES + MIB // 2)


async def test_the_greediest_waits() -> None:
    """Who holds little goes on while others rest; the largest of those goes on first."""
    memory = MemoryInWork(10 * MIB)
    worker, small, large, middle = (memory.open() for _ in range(4))
    worker.set(9 * MIB)
    large.set(3 * MIB)
    middle.set(2 * MIB)
    assert small.may_go_on()
    assert large.may_go_on()  # alone
    assert not middle.may_go_on()
    small.set(MINIMUM_BYTES)
    assert small.may_go_on()
    small.set(MINIMUM_BYTES + 1)
    assert not small.may_go_on()
    large.settle()
    assert middle.may_go_on()
    assert not small.may_go_on()
    worker.close()
    assert small.may_go_on()


async def test_one_that_stands_still_is_ended() -> None:
    """The one that goes on alone does not keep the others waiting by sending nothing."""
    memory, ended = MemoryInWork(2 * MIB, stall_seconds=0.2), []
    still = memory.open(lambda: (ended.append("still"), still.close()))
    other = memory.open()
    still.set(3 * MIB)
    assert still.may_go_on()
    other.set(2 * MIB)
    async with asyncio.timeout(5):
        await receive(other, 4 * MIB)
    assert ended == ["still"]


async def test_one_that_trickles_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that goes on alone does not keep the others waiting by sending a byte at times."""
    monkeypatch.setattr(memory_in_work, "MINIMUM_RATE", MIB)
    memory, ended = MemoryInWork(2 * MIB, stall_seconds=0.3), []
    slow = memory.open(lambda: (ended.append("slow"), slow.close()))
    other = memory.open()
    slow.set(3 * MIB)
    assert slow.may_go_on()

    async def trickle() -> None:
        while not ended:
            slow.set(slow.size + 1)
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    await asyncio.sleep(0.6)
    assert not ended  # nobody waits for it
    other.set(2 * MIB)
    async with asyncio.timeout(5):
        await receive(other, 4 * MIB)
        await trickling
    assert ended == ["slow"]


async def test_one_that_is_quick_enough_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that goes on alone may take long for much."""
    monkeypatch.setattr(memory_in_work, "MINIMUM_RATE", MIB // 10)
    memory, ended = MemoryInWork(2 * MIB, stall_seconds=0.5), []
    large, other = memory.open(lambda: ended.append("large")), memory.open()
    large.set(3 * MIB)
    assert large.may_go_on()
    other.set(2 * MIB)
    waiting = asyncio.create_task(receive(other, 4 * MIB))
    for _ in range(10):
        await asyncio.sleep(0.1)
        large.set(large.size + MIB)
    large.close()
    async with asyncio.timeout(5):
        await waiting
    assert not ended


async def test_what_settled_ones_keep_is_bounded() -> None:
    """Those that only work on what they have let others go on, up to the bound, and not past it."""
    memory, settled = MemoryInWork(4 * MIB), []
    for _ in range(10):
        holding = memory.open()
        holding.set(2 * MIB)
        if not holding.may_go_on():
            break
        holding.settle()
        settled.append(holding)
    assert len(settled) == 3  # two within the bound, and one alone
    waiting = asyncio.create_task(holding.wait())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    settled.pop().close()
    async with asyncio.timeout(5):
        await waiting


async def test_work_is_not_standing_still() -> None:
    """What does not read any more takes its time."""
    memory, ended = MemoryInWork(2 * MIB, stall_seconds=0.1), []
    worker, other = memory.open(lambda: ended.append(1)), memory.open()
    worker.set(3 * MIB)
    worker.is_reading = False
    assert worker.may_go_on()
    other.set(2 * MIB)
    waiting = asyncio.create_task(receive(other, 4 * MIB))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    worker.close()
    async with asyncio.timeout(5):
        await waiting
    assert not ended

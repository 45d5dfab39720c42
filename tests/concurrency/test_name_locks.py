"""Locks by name: one holder of a name, one of all, and nobody waits for who was cancelled."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.concurrency.name_locks import NameLocks


async def test_one_at_a_time() -> None:
    """A name has one holder, other names others; who holds all is alone."""
    locks, held, most = NameLocks(), list[str](), dict[str, int]()

    async def hold(name: str | None) -> None:
        async with locks.hold_all() if name is None else locks.hold(name):
            assert name not in held and None not in held
            assert name is not None or not held
            held.append(name or "all")
            most[name or "all"] = max(most.get(name or "all", 0), len(held))
            await asyncio.sleep(0)
            held.remove(name or "all")

    await asyncio.gather(*(hold(name) for name in ["a", "b", None, "a", "c", None] * 20))
    assert most["all"] == 1
    assert max(most.values()) > 1


async def test_cancelled() -> None:
    """A cancelled holder or waiter leaves the name to the next."""
    locks = NameLocks()

    async def hold(name: str | None) -> None:
        async with locks.hold_all() if name is None else locks.hold(name):
            await asyncio.sleep(60)

    for order in ("a", "a"), ("a", None), (None, "a"), (None, None):
        tasks = [asyncio.create_task(hold(name)) for name in order]
        await asyncio.sleep(0)
        for task in reversed(tasks):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(5), locks.hold_all():
            pass

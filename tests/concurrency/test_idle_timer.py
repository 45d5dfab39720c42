"""The idle timer calls back after a time without a touch."""

from __future__ import annotations

import asyncio

from era_kernels.concurrency.idle_timer import IdleTimer


async def test_idle_timer_fires_after_the_last_touch() -> None:
    """Each touch starts the time anew."""
    fired = asyncio.Event()
    timer = IdleTimer(0.2, fired.set)
    for _ in range(5):
        await asyncio.sleep(0.1)
        timer.touch()
        assert not fired.is_set()
    await asyncio.wait_for(fired.wait(), 5)


async def test_idle_timer_stands_still_while_paused() -> None:
    """No time counts while the timer is paused."""
    fired = asyncio.Event()
    paused = [True]
    IdleTimer(0.05, fired.set, lambda: paused[0])
    await asyncio.sleep(0.3)
    assert not fired.is_set()
    paused[0] = False
    await asyncio.wait_for(fired.wait(), 5)


async def test_idle_timer_can_be_cancelled() -> None:
    """A cancelled timer never fires."""
    fired = asyncio.Event()
    IdleTimer(0.05, fired.set).cancel()
    await asyncio.sleep(0.2)
    assert not fired.is_set()

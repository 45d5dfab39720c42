"""The small parts of a run: waiting for silence, and joining texts. The rest is in test_kernel."""

from __future__ import annotations

import asyncio

from era_kernels.kernels.active_run import IdleTimer, merge_adjacent_texts
from era_kernels.models import ClearOutput, Output, Stderr, Stdout


def test_neighbouring_texts_of_one_stream_are_joined() -> None:
    """Order and content stay; only the borders between neighbours of one stream go."""
    events: list[Output] = [
        Stdout("a"),
        Stdout("b"),
        Stderr("c"),
        Stdout("d"),
        ClearOutput(),
        Stdout("e"),
    ]
    assert merge_adjacent_texts(events) == [
        Stdout("ab"),
        Stderr("c"),
        Stdout("d"),
        ClearOutput(),
        Stdout("e"),
    ]
    assert merge_adjacent_texts([ClearOutput(), ClearOutput()]) == [ClearOutput(), ClearOutput()]
    assert merge_adjacent_texts([]) == []


def test_idle_timer_fires_after_the_last_touch() -> None:
    """Each note starts the time anew."""

    async def body() -> None:
        fired = asyncio.Event()
        timer = IdleTimer(0.2, fired.set)
        for _ in range(5):
            await asyncio.sleep(0.1)
            timer.touch()
            assert not fired.is_set()
        await asyncio.wait_for(fired.wait(), 5)

    asyncio.run(body())


def test_idle_timer_stands_still_while_paused() -> None:
    """No time passes while the kernel is not read."""

    async def body() -> None:
        fired = asyncio.Event()
        paused = [True]
        IdleTimer(0.05, fired.set, lambda: paused[0])
        await asyncio.sleep(0.3)
        assert not fired.is_set()
        paused[0] = False
        await asyncio.wait_for(fired.wait(), 5)

    asyncio.run(body())


def test_idle_timer_can_be_cancelled() -> None:
    """A cancelled wait never fires."""

    async def body() -> None:
        fired = asyncio.Event()
        IdleTimer(0.05, fired.set).cancel()
        await asyncio.sleep(0.2)
        assert not fired.is_set()

    asyncio.run(body())

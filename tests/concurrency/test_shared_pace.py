"""Work of many takes no more of the loop in a moment than that of one."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.concurrency import shared_pace
from era_kernels.concurrency.cooperative import SLICE_SECONDS, YIELD_SECONDS, Yielder
from era_kernels.concurrency.shared_pace import SharedPace


def test_one_alone_rests_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works alone goes on after its rest, however long it has worked."""
    now = 100.0
    monkeypatch.setattr(shared_pace.time, "perf_counter", lambda: now)
    pace = SharedPace()
    for worked in (0.5, 0.6, 5.0):
        assert pace.delay(1.0, 1.5) == pytest.approx(1.0)
        now += 1.0 + worked


def test_many_go_on_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that rest at the same time go on at distances, in the order in which they asked."""
    monkeypatch.setattr(shared_pace.time, "perf_counter", lambda: 100.0)
    pace = SharedPace()
    assert [pace.delay(1.0, 1.5) for _ in range(4)] == pytest.approx([1.0, 2.5, 4.0, 5.5])


async def test_stepwise_work_of_many_shares_the_loop() -> None:
    """Ten that yield at once take ten times as long as one, and not the loop ten times as often."""
    loop = asyncio.get_running_loop()

    async def work() -> None:
        yielder = Yielder()
        for _ in range(5):
            until = loop.time() + SLICE_SECONDS
            while loop.time() < until:
                pass
            await yielder.checkpoint()

    began_at = loop.time()
    await asyncio.gather(*(work() for _ in range(10)))
    assert loop.time() - began_at >= 49 * (SLICE_SECONDS + YIELD_SECONDS)

"""Expiry: sessions that nobody asked for are handed over in time, and no others."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest

from era_kernels.services.expiry import Expiry, Watch


class Clock:
    """An expiry whose sessions are free, or not; `gone` are those that it handed over."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.busy: set[str] = set()
        self.quiet: dict[str, float] = {}
        self.asked = 0
        self.expiry = Expiry(self._quiet_since, self._expire)

    def _quiet_since(self, watch: Watch) -> float | None:
        self.asked += 1
        return None if watch.id in self.busy else self.quiet.get(watch.id, 0.0)

    def _expire(self, watches: list[Watch]) -> None:
        self.gone += [watch.id for watch in watches]


@pytest.mark.gen_test
async def test_in_time() -> None:
    """Each is handed over when its time is up, once, the first one first."""
    clock = Clock()
    for name, ttl in (("c", 0.3), ("a", 0.1), ("b", 0.2), ("never", 1e300)):
        clock.expiry.watch(name, name, ttl)
    clock.expiry.watch("none", "none", None)
    await asyncio.sleep(0.15)
    assert clock.gone == ["a"]
    await asyncio.sleep(0.25)
    assert clock.gone == ["a", "b", "c"]
    clock.expiry.close()


@pytest.mark.gen_test
async def test_a_request_begins_the_time_anew() -> None:
    """The time counts from the end of the newest request."""
    clock = Clock()
    clock.expiry.watch("a", "a", 0.2)
    for _ in range(4):
        await asyncio.sleep(0.1)
        with clock.expiry.visit("a"):
            pass
    assert clock.gone == []
    await asyncio.sleep(0.3)
    assert clock.gone == ["a"]


@pytest.mark.gen_test
async def test_never_during_a_request() -> None:
    """As long as one of several requests is under way, the session stays."""
    clock = Clock()
    clock.expiry.watch("a", "a", 0.05)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(clock.expiry.visit("a"))
        second.enter_context(clock.expiry.visit("a"))
        await asyncio.sleep(0.15)
        first.close()
        await asyncio.sleep(0.3)
        assert clock.gone == []
    await asyncio.sleep(0.4)
    assert clock.gone == ["a"]
    assert not clock.expiry._visits


@pytest.mark.gen_test
async def test_never_while_busy() -> None:
    """While a run is under way the session stays; its end begins the time anew."""
    clock = Clock()
    clock.expiry.watch("a", "a", 0.3)
    clock.busy.add("a")
    await asyncio.sleep(0.5)
    clock.busy.clear()
    clock.quiet["a"] = ended = time.monotonic()
    while not clock.gone:
        await asyncio.sleep(0.01)
    assert 0.3 <= time.monotonic() - ended < 1


@pytest.mark.gen_test
async def test_changed() -> None:
    """A new time counts from now, whether it is shorter, longer or none."""
    clock = Clock()
    for name in "abc":
        clock.expiry.watch(name, name, 0.2)
    clock.expiry.watch("a", "a", 0.05)
    clock.expiry.watch("b", "b", 100)
    clock.expiry.watch("c", "c", None)
    await asyncio.sleep(0.1)
    assert clock.gone == ["a"]
    await asyncio.sleep(0.2)
    assert clock.gone == ["a"]
    clock.expiry.close()


@pytest.mark.gen_test
async def test_forgotten() -> None:
    """A deleted session is not handed over; nor is one that has its id by now forgotten."""
    clock = Clock()
    clock.expiry.watch("a", "old", 0.05)
    clock.expiry.forget("a", "old")
    clock.expiry.watch("b", "new", 0.05)
    clock.expiry.forget("b", "old")
    clock.expiry.forget("c", "never watched")
    await asyncio.sleep(0.1)
    assert clock.gone == ["b"]


@pytest.mark.gen_test
async def test_closed() -> None:
    """Afterwards nothing expires, and no timer is left."""
    clock = Clock()
    clock.expiry.watch("a", "a", 0.01)
    clock.expiry.close()
    await asyncio.sleep(0.05)
    assert clock.gone == []
    assert clock.expiry._timer is None


@pytest.mark.gen_test
async def test_many_cost_nothing() -> None:
    """Ten thousand that are asked for all the time: none is looked at before it may be due."""
    clock = Clock()
    names = [f"s{number}" for number in range(10_000)]
    for name in names:
        clock.expiry.watch(name, name, 60)
    for _ in range(3):
        for name in names:
            with clock.expiry.visit(name):
                pass
    await asyncio.sleep(0.05)
    assert clock.asked == 0
    assert len(clock.expiry._looks) == 10_000
    clock.expiry.close()


@pytest.mark.gen_test
async def test_many_at_once() -> None:
    """Ten thousand whose time is up together are handed over together."""
    clock = Clock()
    for number in range(10_000):
        clock.expiry.watch(f"s{number}", "d", 0.5)
    await asyncio.sleep(1.2)
    assert len(clock.gone) == len(set(clock.gone)) == 10_000


@pytest.mark.gen_test
async def test_changes_leave_nothing() -> None:
    """Looks that are not needed any more do not pile up."""
    clock = Clock()
    for number in range(5000):
        clock.expiry.watch("a", "a", 1000 - number / 10)
        clock.expiry.watch(f"b{number}", "b", 1000)
        clock.expiry.forget(f"b{number}", "b")
    assert len(clock.expiry._looks) < 100
    clock.expiry.close()

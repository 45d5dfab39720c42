"""A timer reports the sessions that were not used for their `ttl`, and no others."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest

from era_kernels.services.ttl import TtlEntry, TtlTimer
from tests.waiting import until

pytestmark = pytest.mark.timed


class TtlFixture:
    """A timer whose sessions are idle or busy; `expired` are those that it reported."""

    def __init__(self) -> None:
        self.expired: list[str] = []
        self.busy: set[str] = set()
        self.idle: dict[str, float] = {}
        self.checks = 0
        self.ttl_timer = TtlTimer(self._idle_since, self._on_expired)

    def _idle_since(self, entry: TtlEntry) -> float | None:
        self.checks += 1
        return None if entry.session_id in self.busy else self.idle.get(entry.session_id, 0.0)

    def _on_expired(self, entries: list[TtlEntry]) -> None:
        self.expired += [entry.session_id for entry in entries]


async def test_in_time() -> None:
    """Each session is reported when its `ttl` is over, once, in order of time."""
    fixture = TtlFixture()
    for name, ttl in (("c", 0.3), ("a", 0.1), ("b", 0.2), ("never", 1e300)):
        fixture.ttl_timer.set_ttl(name, name, ttl)
    fixture.ttl_timer.set_ttl("none", "none", None)
    await asyncio.sleep(0.15)
    assert fixture.expired == ["a"]
    await asyncio.sleep(0.25)
    assert fixture.expired == ["a", "b", "c"]
    fixture.ttl_timer.close()


async def test_a_request_begins_the_time_anew() -> None:
    """The `ttl` counts from the end of the newest request."""
    fixture = TtlFixture()
    fixture.ttl_timer.set_ttl("a", "a", 0.2)
    for _ in range(4):
        await asyncio.sleep(0.1)
        with fixture.ttl_timer.hold("a"):
            pass
    assert fixture.expired == []
    await asyncio.sleep(0.3)
    assert fixture.expired == ["a"]


async def test_never_during_a_request() -> None:
    """As long as one of several requests is under way, the session stays."""
    fixture = TtlFixture()
    fixture.ttl_timer.set_ttl("a", "a", 0.05)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(fixture.ttl_timer.hold("a"))
        second.enter_context(fixture.ttl_timer.hold("a"))
        await asyncio.sleep(0.15)
        first.close()
        await asyncio.sleep(0.3)
        assert fixture.expired == []
    await asyncio.sleep(0.4)
    assert fixture.expired == ["a"]
    assert not fixture.ttl_timer._open_requests


@pytest.mark.alone  # it measures
async def test_never_while_busy() -> None:
    """While a run is under way the session stays; its `ttl` begins anew at the end."""
    fixture = TtlFixture()
    fixture.ttl_timer.set_ttl("a", "a", 0.3)
    fixture.busy.add("a")
    await asyncio.sleep(0.5)
    fixture.busy.clear()
    fixture.idle["a"] = ended = time.monotonic()
    await until(lambda: fixture.expired)
    assert 0.3 <= time.monotonic() - ended < 1


async def test_changed() -> None:
    """A new `ttl` counts from now, whether it is shorter, longer or none."""
    fixture = TtlFixture()
    for name in "abc":
        fixture.ttl_timer.set_ttl(name, name, 0.2)
    fixture.ttl_timer.set_ttl("a", "a", 0.05)
    fixture.ttl_timer.set_ttl("b", "b", 100)
    fixture.ttl_timer.set_ttl("c", "c", None)
    await asyncio.sleep(0.1)
    assert fixture.expired == ["a"]
    await asyncio.sleep(0.2)
    assert fixture.expired == ["a"]
    fixture.ttl_timer.close()


async def test_discarded() -> None:
    """A discarded session is not reported; a newer session with its id still is."""
    fixture = TtlFixture()
    fixture.ttl_timer.set_ttl("a", "old", 0.05)
    fixture.ttl_timer.discard("a", "old")
    fixture.ttl_timer.set_ttl("b", "new", 0.05)
    fixture.ttl_timer.discard("b", "old")
    fixture.ttl_timer.discard("c", "never set")
    await asyncio.sleep(0.1)
    assert fixture.expired == ["b"]


async def test_closed() -> None:
    """Afterwards nothing expires, and no timer is left."""
    fixture = TtlFixture()
    fixture.ttl_timer.set_ttl("a", "a", 0.01)
    fixture.ttl_timer.close()
    await asyncio.sleep(0.05)
    assert fixture.expired == []
    assert fixture.ttl_timer._timer is None


async def test_many_cost_nothing() -> None:
    """Ten thousand sessions with many requests are not checked before they may be due."""
    fixture = TtlFixture()
    names = [f"s{number}" for number in range(10_000)]
    for name in names:
        fixture.ttl_timer.set_ttl(name, name, 60)
    for _ in range(3):
        for name in names:
            with fixture.ttl_timer.hold(name):
                pass
    await asyncio.sleep(0.05)
    assert fixture.checks == 0
    assert len(fixture.ttl_timer._checks) == 10_000
    fixture.ttl_timer.close()


async def test_many_at_once() -> None:
    """Ten thousand sessions that expire together are reported together."""
    fixture = TtlFixture()
    for number in range(10_000):
        fixture.ttl_timer.set_ttl(f"s{number}", "d", 0.5)
    await asyncio.sleep(1.2)
    assert len(fixture.expired) == len(set(fixture.expired)) == 10_000


async def test_changes_leave_nothing() -> None:
    """Checks that are not needed any more do not pile up."""
    fixture = TtlFixture()
    for number in range(5000):
        fixture.ttl_timer.set_ttl("a", "a", 1000 - number / 10)
        fixture.ttl_timer.set_ttl(f"b{number}", "b", 1000)
        fixture.ttl_timer.discard(f"b{number}", "b")
    assert len(fixture.ttl_timer._checks) < 100
    fixture.ttl_timer.close()

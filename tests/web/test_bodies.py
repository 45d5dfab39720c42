"""Bodies: those that come a few bytes at a time are read in turns, all others at once."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.web import bodies
from era_kernels.web.base_request_models import RequestModel
from era_kernels.web.bodies import SMALL_CHUNK, Body


@pytest.fixture
def body() -> Body:
    return Body(MemoryInWork(), lambda: None)


async def test_trickling_bodies_rest(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second pause on, a body of small pieces is not read for a moment."""
    monkeypatch.setattr(bodies, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(bodies, "MIN_REST", 0)
    monkeypatch.setattr(bodies, "MAX_REST", 0)
    assert body.add(b"a") is None
    assert body.add(b"b") is None
    rest = body.add(b"c")
    assert rest is not None
    await rest
    assert body.add(b"d" * (SMALL_CHUNK + 1)) is None
    assert body.take() == b"abc" + b"d" * (SMALL_CHUNK + 1)


async def test_the_end_of_a_body_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client gets its answer as soon as its body is complete."""
    monkeypatch.setattr(bodies, "PAUSE_SECONDS", 0)
    body = Body(MemoryInWork(), lambda: None)
    body.length = 3
    assert [body.add(b"a") for _ in range(3)] == [None] * 3


async def test_small_pieces_that_come_at_once_are_read(
    body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of many short chunks takes no longer than another one."""
    monkeypatch.setattr(bodies, "PAUSE_SECONDS", 3600)
    assert [body.add(b"a") for _ in range(1000)] == [None] * 1000


async def test_a_large_value_counts_until_it_is_gone() -> None:
    """It goes in steps, and is in memory until the last one."""
    memory = MemoryInWork()
    body = Body(memory, lambda: None)
    body.add(b'{"a":[%b1]}' % (b"[]," * 200_000))
    await body.parse(RequestModel, body.take())
    body.close()
    body.close()
    assert memory.total
    while memory.total:
        await asyncio.sleep(0.01)

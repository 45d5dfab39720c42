"""Sessions with a `ttl`: deleted as by DELETE when nobody asks for them, never in a run."""

from __future__ import annotations

import asyncio
import time

import pytest

from era_kernels.errors import InsufficientStorage, SessionNotFound
from era_kernels.models import NewSession
from era_kernels.services.duplicates import Wish
from tests.services.conftest import OpenHouse
from tests.services.house import LANGUAGE, House, end_of, failing, soon


async def gone(house: House, id: str = "s1") -> float:
    """Seconds until that session was not stored any more."""
    began = time.monotonic()
    while await house.store.find(id):
        await soon()
    return time.monotonic() - began


@pytest.mark.gen_test
async def test_deleted(house: House) -> None:
    """Kernel, files, code and row go, and nothing else does; the id is free."""
    await house.create("other")
    await house.create(ttl=0.3, data={"code": "x"})
    await house.run("write file text")
    assert 0.2 < await gone(house) < 1
    while len(house.directories) > 1:
        await soon()
    assert house.host.machines[0].ended.done()
    assert house.sessions.count == 1
    with pytest.raises(SessionNotFound):
        await house.session()
    await house.create()
    assert await house.codes.find((await house.session()).directory) is None


@pytest.mark.gen_test
async def test_stored(house: House) -> None:
    """It is a field like others: created, changed, unset, duplicated."""
    assert (await house.create(ttl=1000)).ttl == 1000
    view = await house.sessions.update("s1", ttl=2000.5)
    assert view.session.ttl == (await house.store.get("s1")).ttl == 2000.5
    copy = await house.sessions.duplicate("s1", Wish("s2"))
    assert copy.session.ttl == 2000.5
    view = await house.sessions.update("s1", ttl=None)
    assert view.session.ttl is None
    assert (await house.session("s2")).ttl == 2000.5


@pytest.mark.gen_test
async def test_changed(house: House) -> None:
    """A change counts from now; a duplicate has a time of its own."""
    await house.create(ttl=0.2)
    await house.sessions.duplicate("s1", Wish("s2"))
    await house.sessions.update("s1", ttl=None)
    await gone(house, "s2")
    assert await house.store.find("s1")
    await house.sessions.update("s1", ttl=0.1)
    await gone(house)


@pytest.mark.gen_test
async def test_requests(house: House) -> None:
    """A session that is asked for stays, and as long as a request is under way."""
    await house.create(ttl=0.2)
    for _ in range(4):
        await asyncio.sleep(0.1)
        with house.sessions.visiting("s1"):
            pass
    with house.sessions.visiting("s1"):
        await asyncio.sleep(0.6)
        assert await house.session()
    assert await gone(house) < 1


@pytest.mark.gen_test
async def test_runs(house: House) -> None:
    """A session with a run under way or waiting stays, and its time begins when they end."""
    await house.create(ttl=0.2)
    first, second = await house.submit("gate g\nout 1"), await house.submit("gate h\nout 2")
    await asyncio.sleep(0.5)
    house.gates["g"].set()
    assert (await first.answer()).stdout == "1\n"
    await asyncio.sleep(0.5)
    house.gates["h"].set()
    assert (await second.answer()).stdout == "2\n"
    await asyncio.sleep(0.1)
    assert await house.store.find("s1")
    assert await gone(house) < 1


@pytest.mark.gen_test
async def test_a_run_at_the_last_moment(house: House) -> None:
    """A run is either refused or runs to its end: it is never ended by the time to live."""
    refused, pause = 0, 0.0185
    for _ in range(24):
        await house.create(ttl=0.02)
        await asyncio.sleep(pause)
        try:
            failures, done = await end_of(await house.submit("out x"))
            assert (failures, done.exit_code) == ([], 0)
            pause += 0.001
        except SessionNotFound:  # too late: on a busy machine a sleep takes longer
            refused += 1
            pause = max(0, pause - 0.0007)
        await gone(house)
    assert refused < 24


@pytest.mark.gen_test
async def test_after_a_restart_of_the_server(open_house: OpenHouse, house: House) -> None:
    """The time begins anew with the server."""
    await house.create(ttl=0.5)
    await asyncio.sleep(0.3)
    await house.aclose()
    again = House(house.path)
    await again.open()
    await asyncio.sleep(0.3)
    assert await again.store.find("s1")
    assert await gone(again) < 1
    await again.aclose()


@pytest.mark.gen_test
async def test_deletion_that_fails(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that could not be deleted is there as before, and is tried again."""
    await house.create(ttl=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "delete", failing(InsufficientStorage("The disk is full.")))
        await asyncio.sleep(0.4)
        assert (await house.run("out x")).stdout == "x\n"
    await gone(house)


@pytest.mark.gen_test
async def test_deleted_before(house: House) -> None:
    """Who is deleted by a call is not deleted again, nor is the next one of that id."""
    await house.create(ttl=0.2)
    await house.sessions.delete("s1")
    again = await house.create()
    await house.create("s2", ttl=0.2)
    await house.sessions.delete_all()
    await house.create("s2")
    await asyncio.sleep(0.4)
    assert house.sessions.count == 1
    with pytest.raises(SessionNotFound):
        await house.session(again.id)


@pytest.mark.gen_test
async def test_many(house: House) -> None:
    """Many whose time is up together go together, and others are served meanwhile."""
    await house.create("other")
    wishes = [NewSession(LANGUAGE, id=f"n{number}", ttl=0.5) for number in range(200)]
    await asyncio.gather(*map(house.sessions.create, wishes))
    while house.sessions.count > 1:
        assert (await house.run("out x", "other")).stdout == "x\n"
    while len(house.directories) > 1:
        await soon()


@pytest.mark.gen_test
async def test_the_server_stops(house: House) -> None:
    """A server that stops deletes nothing any more."""
    await house.create(ttl=0.1)
    await house.sessions.aclose()
    await asyncio.sleep(0.3)
    assert await house.store.find("s1")

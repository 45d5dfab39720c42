"""Stored code is one per session, apart from its data, and is deleted with the session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from era_kernels.errors import InsufficientStorage, SessionNotFound
from era_kernels.models import Session
from era_kernels.storage.stored_code import CodeStore, StoredCode
from tests.storage.stores import CREATED_AT, Stores, make_session, open_stores

LONG = "x = '☃\x00'\n" * 500_000


async def rows(stores: Stores) -> int:
    return await stores.database.read(
        lambda connection: int(connection.execute("SELECT count(*) FROM codes").fetchone()[0])
    )


async def test_put_and_find(stores: Stores, session: Session) -> None:
    """Code is replaced whole, of any length; a description that is not given stays."""
    codes = CodeStore(stores.database)
    assert await codes.find(session.directory) is None
    first = await codes.put(session, "a", None)
    assert (first.code, first.description) == ("a", "")
    described = await codes.put(session, "b", "about")
    assert described.updated_at > first.updated_at
    for description, expected in ((None, "about"), ("", ""), ("x\x00y", "x\x00y")):
        stored = await codes.put(session, LONG, description)
        assert (stored.code, stored.description) == (LONG, expected)
        assert await codes.find(session.directory) == stored
    assert await rows(stores) == 1


async def test_survives(tmp_path: Path) -> None:
    """What was stored is there after the next start."""
    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        stored = await CodeStore(stores.database).put(session, "a", "b")
    async with open_stores(tmp_path) as stores:
        assert await CodeStore(stores.database).find(session.directory) == stored


async def test_created_with_code(stores: Stores) -> None:
    """A session and its code are stored together, or neither."""
    code = StoredCode("a", "b", CREATED_AT)
    await stores.sessions.create(make_session(1), code)
    codes = CodeStore(stores.database)
    assert await codes.find(make_session(1).directory) == code
    other = Session("s1", "lingo", "another", CREATED_AT)
    with pytest.raises(Exception, match="exists"):
        await stores.sessions.create(other, code)
    assert await codes.find("another") is None


async def test_goes_with_the_session(stores: Stores, session: Session) -> None:
    """Code is deleted with its session, by either way; another one of that id has none."""
    codes = CodeStore(stores.database)
    await codes.put(session, "a", None)
    await stores.sessions.delete("s1")
    assert await rows(stores) == 0
    await codes.put(await stores.create_session(), "b", None)
    await codes.put(await stores.create_session("s2"), "c", None)
    await stores.sessions.delete_all()
    assert await rows(stores) == 0


async def test_of_a_deleted_session(stores: Stores, session: Session) -> None:
    """Code for a session that is just deleted reaches neither it nor the next one of its id."""
    codes = CodeStore(stores.database)
    await stores.sessions.delete("s1")
    again = await stores.create_session()
    with pytest.raises(SessionNotFound, match="s1"):
        await codes.put(session, "a", None)
    assert await rows(stores) == 0
    assert await codes.find(again.directory) is None


async def test_many_at_once(stores: Stores, session: Session) -> None:
    """Of many puts at once, one is there in the end, whole."""
    codes = CodeStore(stores.database)
    await asyncio.gather(*(codes.put(session, f"{n}" * 1000, f"{n}") for n in range(9)))
    stored = await codes.find(session.directory)
    assert stored is not None
    assert stored.code == stored.description * 1000


async def test_no_room(stores: Stores, session: Session) -> None:
    """With less room than the reserve nothing is stored; what is there can be read."""

    def no_room() -> None:
        raise InsufficientStorage("less than disk_reserve")

    stored = await CodeStore(stores.database).put(session, "a", "b")
    codes = CodeStore(stores.database, no_room)
    with pytest.raises(InsufficientStorage):
        await codes.put(session, "c", None)
    assert await codes.find(session.directory) == stored

"""Stored code: one per session, apart from its data, gone with the session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from era_kernels.errors import SessionNotFound
from era_kernels.models import Session
from era_kernels.storage.codes import CodeStore, StoredCode
from tests.storage.house import THEN, House, a_session, opened

LONG = "x = '☃\x00'\n" * 500_000


async def rows(house: House) -> int:
    return await house.database.read(
        lambda connection: int(connection.execute("SELECT count(*) FROM codes").fetchone()[0])
    )


@pytest.mark.gen_test
async def test_put_and_find(tmp_path: Path) -> None:
    """Code is replaced whole, of any length; a description that is not given stays."""
    async with opened(tmp_path) as house:
        codes, session = CodeStore(house.database), await house.session()
        assert await codes.find(session.directory) is None
        first = await codes.put(session, "a", None)
        assert (first.code, first.description) == ("a", "")
        described = await codes.put(session, "b", "about")
        assert described.updated_at > first.updated_at
        for description, expected in ((None, "about"), ("", ""), ("x\x00y", "x\x00y")):
            stored = await codes.put(session, LONG, description)
            assert (stored.code, stored.description) == (LONG, expected)
            assert await codes.find(session.directory) == stored
        assert await rows(house) == 1


@pytest.mark.gen_test
async def test_survives(tmp_path: Path) -> None:
    """What was stored is there after the next start."""
    async with opened(tmp_path) as house:
        session = await house.session()
        stored = await CodeStore(house.database).put(session, "a", "b")
    async with opened(tmp_path) as house:
        assert await CodeStore(house.database).find(session.directory) == stored


@pytest.mark.gen_test
async def test_created_with_code(tmp_path: Path) -> None:
    """A session and its code are stored together, or neither."""
    async with opened(tmp_path) as house:
        code = StoredCode("a", "b", THEN)
        await house.sessions.create(a_session(1), code)
        codes = CodeStore(house.database)
        assert await codes.find(a_session(1).directory) == code
        other = Session("s1", "lingo", "another", THEN)
        with pytest.raises(Exception, match="exists"):
            await house.sessions.create(other, code)
        assert await codes.find("another") is None


@pytest.mark.gen_test
async def test_goes_with_the_session(tmp_path: Path) -> None:
    """Code is deleted with its session, by either way; another one of that id has none."""
    async with opened(tmp_path) as house:
        codes, session = CodeStore(house.database), await house.session()
        await codes.put(session, "a", None)
        await house.sessions.delete("s1")
        assert await rows(house) == 0
        await codes.put(await house.session(), "b", None)
        await codes.put(await house.session("s2"), "c", None)
        await house.sessions.delete_all()
        assert await rows(house) == 0


@pytest.mark.gen_test
async def test_of_a_deleted_session(tmp_path: Path) -> None:
    """Code for a session that is just deleted reaches neither it nor the next one of its id."""
    async with opened(tmp_path) as house:
        codes, session = CodeStore(house.database), await house.session()
        await house.sessions.delete("s1")
        again = await house.session()
        with pytest.raises(SessionNotFound, match="s1"):
            await codes.put(session, "a", None)
        assert await rows(house) == 0
        assert await codes.find(again.directory) is None


@pytest.mark.gen_test
async def test_many_at_once(tmp_path: Path) -> None:
    """Of many puts at once, one is there in the end, whole."""
    async with opened(tmp_path) as house:
        codes, session = CodeStore(house.database), await house.session()
        await asyncio.gather(*(codes.put(session, f"{n}" * 1000, f"{n}") for n in range(9)))
        stored = await codes.find(session.directory)
        assert stored is not None
        assert stored.code == stored.description * 1000

"""The sessions' rows: exact, in order, each change for the session it was meant for."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import SessionExists, SessionNotFound
from era_kernels.models import HostPatterns, Limits, Session, StorageScope
from era_kernels.storage.sessions import SessionStore
from tests.storage.stores import (
    CREATED_AT,
    LANGUAGE,
    Stores,
    make_execution,
    make_session,
    open_stores,
)


async def listed(store: SessionStore, **page: Any) -> tuple[list[Session], int]:
    """A whole list, and the total."""
    sessions, total = await store.list_sessions(**page)
    return list(sessions), total


async def test_every_field_is_kept_exactly(tmp_path: Path) -> None:
    """What was created is what `get` gives, after a restart too: any integer, text, time."""
    session = Session(
        id="s.1_X-y",
        language="any",
        directory="0123456789abcdef",
        created_at=CREATED_AT.replace(microsecond=123456),
        persistent=False,
        data={"big": 2**200, "neg": -(10**60), "half": 0.1,
              "é\u2028\x00": ["\U0001f600", 1.0, True]},
        metadata={"": {"deep": [[[]]]}},
        last_run_at=CREATED_AT,
        default_timeout=0.25,
        ttl=1e300,
        allow_internet=True,
        allow_public=True,
        file_count=3,
        total_size=2**63 - 1,
        kernel_generation=7,
        limits=Limits(memory=2**40, processes=1, cpu=0.1),
        mounts=("b", "a.1"),
        storage=StorageScope.parse(["app", "tmp-*"]),
        allow_hosts=HostPatterns.parse(["example.org", "*.example.net", "2001:db8::1"]),
    )  # fmt: skip

    async with open_stores(tmp_path) as stores:
        await stores.sessions.create(session)
        assert await stores.sessions.get(session.id) == session
    async with open_stores(tmp_path) as stores:
        found = await stores.sessions.find(session.id)
        assert found == session
        assert found is not None
        assert isinstance(found.persistent, bool)
        assert found.data["é\u2028\x00"][2] is True


async def test_a_taken_id_changes_nothing(stores: Stores) -> None:
    """Of many creations with one id exactly one wins, the others are SessionExists."""
    wishes = [make_session(n, id="same") for n in range(20)]
    outcomes = await asyncio.gather(*map(stores.sessions.create, wishes), return_exceptions=True)
    assert [type(o) for o in outcomes] == [type(None), *[SessionExists] * 19]
    assert await stores.sessions.get("same") == wishes[0]


async def test_what_is_not_there(stores: Stores) -> None:
    """get, update and delete raise SessionNotFound; find and update_soon do not."""
    store = stores.sessions
    assert await store.find("s1") is None
    for call in (
        store.get("s1"),
        store.delete("s1"),
        store.update(make_session(1), file_count=1),
    ):
        with pytest.raises(SessionNotFound, match="s1"):
            await call
    store.update_soon(make_session(1), file_count=1)
    assert await listed(store) == ([], 0)


async def test_delete_of_one_directory(stores: Stores) -> None:
    """A session that got the id of the one that was meant is not deleted."""
    await stores.sessions.create(make_session(1))
    with pytest.raises(SessionNotFound, match="s1"):
        await stores.sessions.delete("s1", "another")
    await stores.sessions.delete("s1", make_session(1).directory)
    assert await stores.sessions.find("s1") is None


async def test_lists(stores: Stores) -> None:
    """Oldest first, then as created; pages and languages; the total is that of the filter."""
    made = [make_session(n, created_at=CREATED_AT, language="ab"[n % 2]) for n in range(10, 20)]
    made.insert(0, make_session(5, language="a", data={"x": 1}, metadata={"m": 1}))
    made[0] = dataclasses.replace(made[0], created_at=CREATED_AT.replace(year=2024))
    for session in [*made[1:], made[0]]:
        await stores.sessions.create(session)
    store = stores.sessions
    expected = [dataclasses.replace(one, data={}) for one in made]
    assert await listed(store) == (expected, 11)
    assert await listed(store, limit=3, offset=2) == (expected[2:5], 11)
    assert await listed(store, offset=9) == (expected[9:], 11)
    assert await listed(store, limit=0) == ([], 11)
    assert await listed(store, offset=50) == ([], 11)
    only = [one for one in expected if one.language == "b"]
    assert await listed(store, limit=2, language="b") == (only[:2], 5)
    assert await listed(store, language="none") == ([], 0)


@pytest.mark.alone  # it compares times
async def test_lists_do_not_read_data(tmp_path: Path) -> None:
    """A list of sessions with much data takes hardly longer than one of sessions without."""

    async def seconds(path: Path, data: dict[str, str]) -> float:
        path.mkdir()
        async with open_stores(path) as stores:
            await asyncio.gather(
                *(stores.sessions.create(make_session(n, data=data)) for n in range(300))
            )
            times = []
            for _ in range(5):
                began = time.perf_counter()
                sessions, _ = await stores.sessions.list_sessions()
                times.append(time.perf_counter() - began)
                assert not any(session.data for session in sessions)
            return min(times)

    light = await seconds(tmp_path / "light", {})
    heavy = await seconds(tmp_path / "heavy", {"x": "y" * 200_000})
    # Reading the 60 MB would take more than ten times as long.
    assert heavy < 5 * light + 0.02


async def test_updates(stores: Stores) -> None:
    """Fields change alone; `update` is durable, `update_soon` is seen by every later read."""
    session = await stores.create_session(data={"a": 1})
    await stores.sessions.update(session, data={"b": 2}, default_timeout=3.5)
    await stores.sessions.update(session)
    stores.sessions.update_soon(session, last_run_at=CREATED_AT, file_count=4, total_size=5)
    expected = dataclasses.replace(
        session, data={"b": 2}, default_timeout=3.5, last_run_at=CREATED_AT,
        file_count=4, total_size=5,
    )  # fmt: skip
    assert await stores.sessions.get("s1") == expected
    stores.sessions.update_soon(session, kernel_generation=9)
    (one,), _ = await stores.sessions.list_sessions()
    assert one.kernel_generation == 9
    await stores.sessions.update(session, default_timeout=None)
    assert (await stores.sessions.get("s1")).default_timeout is None
    with pytest.raises(TypeError, match="colour"):
        await stores.sessions.update(session, colour="red")


async def test_changes_for_a_deleted_session_do_not_reach_its_successor(stores: Stores) -> None:
    """A new session with the id of a deleted one is untouched by late changes for the old one."""
    old = await stores.create_session()
    await stores.sessions.delete("s1")
    new = await stores.create_session()
    stores.sessions.update_soon(old, file_count=99)
    with pytest.raises(SessionNotFound):
        await stores.sessions.update(old, data={"old": 1})
    assert await stores.sessions.get("s1") == new
    execution = make_execution(old)
    log = await stores.executions.create(execution, old.directory, LANGUAGE)
    await log.aclose()
    assert await stores.executions.list_executions("s1") == ([], 0)


async def test_deletion_takes_executions_along(stores: Stores) -> None:
    """delete removes the row, the index of its executions, and no others; the id is free."""
    one, other = await stores.create_session("one"), await stores.create_session("other")
    for session in (one, other):
        await stores.create_finished_execution(session, f"exec-{session.id}")
    assert await stores.sessions.delete("one") == one
    assert (await stores.executions.list_executions("one"))[1] == 0
    assert (await stores.executions.list_executions("other"))[1] == 1
    await stores.create_session("one")


async def test_delete_all(stores: Stores) -> None:
    """Every session is deleted, and returned without `data`."""
    made = [make_session(n, data={"n": n}) for n in range(50)]
    await asyncio.gather(*map(stores.sessions.create, made))
    deleted = await stores.sessions.delete_all()
    assert deleted == [dataclasses.replace(one, data={}) for one in made]
    assert await listed(stores.sessions) == ([], 0)
    assert await stores.sessions.delete_all() == []

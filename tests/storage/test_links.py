"""Links are kept by digests, as many per session as are allowed, and go with their session."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from era_kernels.errors import AtCapacity, InsufficientStorage, SessionNotFound
from era_kernels.models import Link, LinkTarget, Session, now
from era_kernels.storage import links
from era_kernels.storage.links import LinkStore
from tests.storage.stores import Stores, open_stores

PORT, FILE = LinkTarget(port=80), LinkTarget(path="a/b☃", method="PUT")


def make(session: Session, name: str, target: LinkTarget = PORT, ttl: float = 60) -> Link:
    made = now()
    ends = made + timedelta(seconds=ttl)
    return Link(name, session.id, session.directory, made, ends, target)


async def rows(stores: Stores) -> int:
    return await stores.database.read(
        lambda connection: int(connection.execute("SELECT count(*) FROM links").fetchone()[0])
    )


async def test_create_and_find(tmp_path: Path) -> None:
    """A link is found by its digest with all that it has, also after the next start."""
    async with open_stores(tmp_path) as stores:
        store, session = LinkStore(stores.database), await stores.create_session()
        made = [make(session, "l1"), make(session, "l2", FILE), make(session, "l3", ttl=-1)]
        for link in made:
            await store.create(link, link.id.encode())
        assert await store.find(b"l9") is None
        assert await store.list_links(session.directory) == made[:2]
        assert await store.list_links("another") == []
    async with open_stores(tmp_path) as stores:
        store = LinkStore(stores.database)
        assert [await store.find(link.id.encode()) for link in made] == made


async def test_delete(stores: Stores, session: Session) -> None:
    """A link is deleted from its own session only, and once."""
    store = LinkStore(stores.database)
    await store.create(make(session, "l1"), b"1")
    assert not await store.delete("another", "l1")
    assert not await store.delete(session.directory, "l2")
    assert await store.delete(session.directory, "l1")
    assert not await store.delete(session.directory, "l1")
    assert await store.find(b"1") is None


async def test_goes_with_the_session(stores: Stores, session: Session) -> None:
    """Links are deleted with their session, by either way; another one of that id has none."""
    store = LinkStore(stores.database)
    await store.create(make(session, "l1"), b"1")
    await stores.sessions.delete("s1")
    assert await rows(stores) == 0
    again = await stores.create_session()
    with pytest.raises(SessionNotFound):
        await store.create(make(session, "l2"), b"2")
    assert await store.list_links(again.directory) == []
    await store.create(make(again, "l3"), b"3")
    await store.create(make(await stores.create_session("s2"), "l4"), b"4")
    await stores.sessions.delete_all()
    assert await rows(stores) == 0


async def test_bound(stores: Stores) -> None:
    """A session has a number of links; those that have expired make room, others' do not count."""
    store = LinkStore(stores.database, max_links=2)
    session, other = await stores.create_session(), await stores.create_session("s2")
    await store.create(make(session, "l1", ttl=-1), b"1")
    await store.create(make(session, "l2"), b"2")
    await store.create(make(session, "l3"), b"3")
    with pytest.raises(AtCapacity):
        await store.create(make(session, "l4"), b"4")
    await store.create(make(other, "l5"), b"5")
    assert [link.id for link in await store.list_links(session.directory)] == ["l2", "l3"]
    assert await store.find(b"1") is None


async def test_sweep(stores: Stores, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What expired long ago is swept, at a start and with each new link; the rest is kept."""
    monkeypatch.setattr(links, "SWEEP_BATCH", 2)
    long_ago = -links.KEPT_AFTER_EXPIRY.total_seconds() - 1
    store = LinkStore(stores.database)
    for number in range(7):
        await store.create(make(session, f"l{number}", ttl=long_ago), bytes([number]))
    await store.create(make(session, "kept", ttl=long_ago + 60), b"kept")
    assert await rows(stores) <= 3
    await store.sweep()
    assert await rows(stores) == 1
    assert await store.find(b"kept") is not None


async def test_no_room(stores: Stores, session: Session) -> None:
    """With less room than the reserve no link is made; those that there are can be used."""

    def no_room() -> None:
        raise InsufficientStorage("less than disk_reserve")

    link = make(session, "l1")
    await LinkStore(stores.database).create(link, b"1")
    store = LinkStore(stores.database, no_room)
    with pytest.raises(InsufficientStorage):
        await store.create(make(session, "l2"), b"2")
    assert await store.find(b"1") == link

"""Resources: everything that is stored, newest update first, found by indexes alone."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import ResourceType, StorageQuotas
from era_kernels.storage.d1.store import D1Statement, D1Store
from era_kernels.storage.kv import KVStore
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.sql_values import time_to_text
from era_kernels.storage.storage_usage import count_change
from era_kernels.storage.stored_items import (
    StoredItem,
    StoredItemFilter,
    StoredItemIndex,
    list_query,
)
from tests.conftest import entered
from tests.storage.stores import CREATED_AT, Stores, make_session, open_stores

KV, D1, R2, DO = ResourceType.KV, ResourceType.D1, ResourceType.R2, ResourceType.DO


@dataclass(frozen=True)
class Index:
    """The index, and ways to store what it lists."""

    stores: Stores
    kv: KVStore
    resources: StoredItemIndex

    async def insert(self, table: str, minute: int, **fields: object) -> None:
        """Inserts a row as the store of that table does."""
        time = time_to_text(CREATED_AT + timedelta(minutes=minute))
        columns = {"created_at": time, "updated_at": time, "size": 10 + minute, **fields}
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"INSERT INTO {table} ({names}) VALUES ({marks})", (*columns.values(),)
            )
            if table == "r2_objects":
                count_change(
                    connection, StorageQuotas(), R2, str(fields["namespace"]), count=1,
                    size=10 + minute,
                )  # fmt: skip

        await self.stores.database.write(write)

    async def insert_table(self, minute: int, namespace: str, name: str) -> None:
        await self.insert("d1_tables", minute, namespace=namespace, name=name)

    async def insert_object(self, minute: int, namespace: str, key: str) -> None:
        await self.insert(
            "r2_objects", minute, namespace=namespace, key=key, blob=f"{minute}", etag="e",
            custom_metadata='{"a":"é"}',
        )  # fmt: skip

    async def fill(self) -> None:
        """Stores some of every type; those of KV are the newest."""
        await self.insert_table(1, "n", "users")
        await self.insert_object(2, "n", "user/1")
        await self.insert_table(3, "m", "items")
        await self.insert_object(4, "m", "x")
        await self.stores.sessions.create(make_session(300, metadata={"m": 1}, total_size=7))
        await self.stores.sessions.create(make_session(360))  # a minute later
        await self.kv.put("n", "user:1", "12345", {"b": 2})
        await self.kv.put("sessions", "s", "é")

    async def list(self, limit: int = 100, offset: int = 0, **wanted: object) -> list[StoredItem]:
        """A page, whose total must be right."""
        filter_ = StoredItemFilter(**wanted)  # type: ignore[arg-type]
        found, total = await self.resources.list_items(filter_, limit, offset)
        everything, _ = await self.resources.list_items(filter_, 10_000, 0)
        assert total == len(list(everything))
        return list(found)

    async def keys(self, limit: int = 100, offset: int = 0, **wanted: object) -> list[str]:
        return [one.key for one in await self.list(limit, offset, **wanted)]


@asynccontextmanager
async def open_index(path: Path) -> AsyncIterator[Index]:
    async with open_stores(path) as stores:
        kv = KVStore(stores.database, StorageQuotas(), 1_000_000)
        yield Index(stores, kv, StoredItemIndex(stores.database))


@pytest.fixture
def index(io_loop: IOLoop, tmp_path: Path) -> Iterator[Index]:
    with entered(io_loop, open_index(tmp_path)) as index:
        yield index


NEWEST_FIRST = ["s", "user:1", "s360", "s300", "x", "items", "user/1", "users"]


async def test_newest_first_of_all_stores(tmp_path: Path) -> None:
    """What the stores themselves write is in the order of its writing, whichever store it was."""
    order: list[str] = []
    async with open_index(tmp_path) as index, AsyncExitStack() as stack:
        database = index.stores.database
        d1 = D1Store(database, tmp_path / "d1")
        stack.push_async_callback(d1.aclose)
        r2 = R2Store(database, tmp_path / "r2", tmp_path / "lock", StorageQuotas(), 1000)
        stack.push_async_callback(r2.aclose)
        await r2.sweep()
        writes: dict[str, Callable[[str], Awaitable[object]]] = {
            "kv": lambda name: index.kv.put("n", name, "value"),
            "d1": lambda name: d1.execute("n", D1Statement(f"CREATE TABLE {name} (a)")),
            "r2": lambda name: put_object(r2, name),
            "session": lambda name: index.stores.create_session(name),
        }
        for number, (name, write) in product(range(3), writes.items()):
            await write(f"{name}{number}")
            order.insert(0, f"{name}{number}")
        await index.kv.put("n", "kv0", "value again")
        order.remove("kv0")
        await put_object(r2, "r21")
        order.remove("r21")
        assert await index.keys() == ["r21", "kv0", *order]


async def put_object(store: R2Store, key: str) -> None:
    upload = await store.start_upload("n", key, 1)
    try:
        await upload.write(b"x")
        await store.put("n", key, upload)
    finally:
        upload.discard()


async def test_nothing(index: Index) -> None:
    """Where nothing is stored nothing is listed or counted."""
    assert await index.list() == []
    totals = await index.resources.totals()
    assert totals.by_type == {KV: 0, D1: 0, R2: 0, DO: 0}
    assert (totals.total, totals.by_namespace, totals.total_size) == (0, {}, 0)


async def test_every_type(index: Index) -> None:
    """Keys, tables, objects and sessions are one list, with the fields of each."""
    await index.fill()
    listed = await index.list()
    assert [one.key for one in listed] == NEWEST_FIRST
    shown = {one.key: (one.type, one.namespace, one.size, one.metadata) for one in listed}
    assert shown == {
        "s": (KV, "sessions", 2, {}),
        "user:1": (KV, "n", 5, {"b": 2}),
        "s360": (DO, "sessions", 0, {}),
        "s300": (DO, "sessions", 7, {"m": 1}),
        "x": (R2, "m", 14, {"a": "é"}),
        "items": (D1, "m", 13, {}),
        "user/1": (R2, "n", 12, {"a": "é"}),
        "users": (D1, "n", 11, {}),
    }
    assert listed[3].created_at == listed[3].updated_at == make_session(300).created_at


async def test_filters(index: Index) -> None:
    """Type, namespace and beginning of the key, alone and together."""
    await index.fill()
    for type_, namespace, prefix in product(
        [None, *ResourceType],
        [None, "n", "m", "sessions", "none"],
        ["", "u", "user:", "s", "z"],
    ):
        expected = [
            one.key
            for one in await index.list()
            if type_ in (None, one.type)
            and namespace in (None, one.namespace)
            and one.key.startswith(prefix)
        ]
        wanted = {"type": type_, "namespace": namespace, "key_prefix": prefix}
        assert await index.keys(**wanted) == expected, wanted


async def test_updates_come_first(index: Index) -> None:
    """What is changed moves to the front: a key that is put, a session that has run."""
    await index.fill()
    await index.kv.put("n", "user:1", "new")
    assert (await index.keys())[:2] == ["user:1", "s"]
    last_run_at = CREATED_AT + timedelta(days=36500)
    index.stores.sessions.update_soon(make_session(300), last_run_at=last_run_at)
    assert (await index.keys())[:3] == ["s300", "user:1", "s"]
    [session] = await index.list(1)
    assert (session.created_at, session.updated_at) == (
        make_session(300).created_at, last_run_at
    )  # fmt: skip
    await index.kv.delete("n", "user:1")
    assert (await index.keys())[:2] == ["s300", "s"]


async def test_pages(index: Index) -> None:
    """Pages of any size are parts of the one list, and there is nothing past its end."""
    await index.fill()
    for limit in range(1, 10):
        pages = [await index.keys(limit, offset) for offset in range(0, 10, limit)]
        assert [key for page in pages for key in page] == NEWEST_FIRST
    assert await index.keys(9, 2**62) == []


async def test_equal_times(index: Index) -> None:
    """What was updated in the same moment keeps its order from page to page."""
    for number in range(20):
        await index.insert("d1_tables", 0, namespace="n", name=f"t{number}")
        await index.insert("d1_tables", 0, namespace="m", name=f"t{number}")
    pages = [await index.list(3, offset) for offset in range(0, 40, 3)]
    assert len({(one.namespace, one.key) for page in pages for one in page}) == 40


async def test_totals(index: Index) -> None:
    """All are counted by type and namespace; sizes are those of the list."""
    await index.fill()
    totals = await index.resources.totals()
    assert totals.by_type == {KV: 2, D1: 2, R2: 2, DO: 2}
    assert totals.by_namespace == {"m": 2, "n": 3, "sessions": 3}
    assert totals.total == 8
    assert totals.total_size == sum([one.size for one in await index.list()])


FILTERS = [
    StoredItemFilter(*wanted)
    for wanted in product([None, *ResourceType], [None, "n", "sessions"], ["", "k", "\U0010ffff"])
    if StoredItemFilter(*wanted).tables
]


async def test_pages_use_indexes(index: Index) -> None:
    """No page scans a table: it searches an index, or walks one in the order of the list.

    Only what a prefix selects is sorted.
    """
    values = {"namespace": "n", "prefix": "k", "prefix_end": "l", "now": 0, "limit": 1, "offset": 0}
    for wanted in FILTERS:
        query = f"EXPLAIN QUERY PLAN {list_query(wanted)}"
        rows = await index.stores.database.read(
            lambda connection, query=query: connection.execute(query, values).fetchall()
        )
        check_plan([row[3] for row in rows], wanted)


def check_plan(plan: list[str], wanted: StoredItemFilter) -> None:
    reads = [step for step in plan if step.startswith(("SCAN", "SEARCH"))]
    assert len(reads) >= len(wanted.tables), (wanted, plan)
    assert all("INDEX" in step for step in reads), (wanted, plan)
    assert not any("TEMP B-TREE" in step for step in plan) or wanted.key_prefix, (wanted, plan)
    for step in reads:
        walks = step.startswith("SCAN")
        assert not walks or not wanted.key_prefix, (wanted, plan)
        assert not walks or wanted.namespace is None or " sessions " in step, (wanted, plan)

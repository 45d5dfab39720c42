"""KV behaves as a dict of bytes that is sorted, durable and bounded, and forgets in time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from era_kernels.errors import (
    InsufficientStorage,
    InvalidRequest,
    KeyNotFound,
    QuotaExceeded,
    TooLarge,
)
from era_kernels.models import StorageQuotas
from era_kernels.storage import kv_expiry
from era_kernels.storage.database import Database
from era_kernels.storage.kv import KVEntry, KVStore, list_query
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.stored_items import StoredItemFilter, StoredItemIndex
from tests.conftest import entered
from tests.storage.stores import small_disk
from tests.storage.test_key_ranges import ODD_CHARACTERS

MAX_VALUE = 100_000
NO_QUOTAS = StorageQuotas()


@asynccontextmanager
async def open_kv(
    path: Path, quotas: StorageQuotas = NO_QUOTAS, *, sweeps: bool = False
) -> AsyncIterator[KVStore]:
    """Opens a store; it deletes expired keys only where that is said."""
    database = await Database.open(path / "era.db", MIGRATIONS)
    kv = KVStore(database, quotas, MAX_VALUE)
    if sweeps:
        await kv.open()
    try:
        yield kv
    finally:
        await kv.aclose()
        await database.aclose()


def database_of(kv: KVStore) -> Database:
    return kv._database


async def is_there(kv: KVStore, key: str, namespace: str = "n") -> bool:
    try:
        await kv.get(namespace, key)
    except KeyNotFound:
        return False
    return True


async def names(kv: KVStore, prefix: str = "", limit: int = 1000) -> list[str]:
    """The names of a first page."""
    return [key.name for key in (await kv.list_keys("n", prefix, limit)).keys]


async def stored_rows(kv: KVStore) -> int:
    """How many rows there are, expired or not."""
    return await database_of(kv).read(
        lambda connection: int(connection.execute("SELECT count(*) FROM kv").fetchone()[0])
    )


async def counters(kv: KVStore) -> dict[str, tuple[int, int, int]]:
    """The counters of KV by namespace."""
    rows = await database_of(kv).read(
        lambda connection: connection.execute(
            "SELECT namespace, count, size, overhead FROM storage_usage WHERE type = 'kv'"
        ).fetchall()
    )
    return {row[0]: row[1:] for row in rows}


async def counted(kv: KVStore) -> dict[str, tuple[int, int, int]]:
    """What the counters must say, counted from the rows."""
    rows = await database_of(kv).read(
        lambda connection: connection.execute(
            "SELECT namespace, key, metadata, value FROM kv"
        ).fetchall()
    )
    found: dict[str, tuple[int, int, int]] = {"": (0, 0, 0)}
    for namespace, key, metadata, value in rows:
        added = (1, len(value.encode()), len(key.encode()) + len((metadata or "").encode()))
        for name in ("", namespace):
            old = found.get(name, (0, 0, 0))
            found[name] = (old[0] + added[0], old[1] + added[1], old[2] + added[2])
    return found


@pytest.fixture
def kv(io_loop: IOLoop, tmp_path: Path) -> Iterator[KVStore]:
    with entered(io_loop, open_kv(tmp_path)) as kv:
        yield kv


# ---------------------------------------------------------------- entries


async def test_put_get_delete(kv: KVStore) -> None:
    """A put replaces value and metadata; a deletion of a missing key is fine."""
    with pytest.raises(KeyNotFound):
        await kv.get("n", "k")
    await kv.put("n", "k", "", {"a": [1, None, 2**80, 1.5, "é"]})
    assert await kv.get("n", "k") == KVEntry("", {"a": [1, None, 2**80, 1.5, "é"]})
    await kv.put("n", "k", "x\0é😀")
    assert await kv.get("n", "k") == KVEntry("x\0é😀", {})
    assert not await is_there(kv, "k", "other")
    await kv.delete("n", "k")
    await kv.delete("n", "k")
    assert not await is_there(kv, "k")


KEYS = [
    "\0", "a\0b", "a\0", "a", "/", "//", "..", "../..", ".", " ", "\n", "%2F", "\u00e9", "e\u0301",
    "😀", "\U0010ffff", "\U0010ffff\U0010ffff", "\ud7ff", "\ue000", "\uffff", "\U00010000", "A",
    "k" * 512, "'; DROP TABLE kv; --", "a%b", "a_b", "\\", '"', "1", "01",
]  # fmt: skip


async def test_any_key(kv: KVStore) -> None:
    """Any text is a key of its own, and the list has them all in the order of their bytes."""
    for key in KEYS:
        await kv.put("n", key, f"value of {key}", {"key": key})
    for key in KEYS:
        assert await kv.get("n", key) == KVEntry(f"value of {key}", {"key": key})
    assert await names(kv) == sorted(KEYS, key=str.encode)
    assert await counters(kv) == await counted(kv)


async def test_survives(tmp_path: Path) -> None:
    """What was put is there after the next start."""
    async with open_kv(tmp_path) as kv:
        await kv.put("n", "k", "v", {"a": 1})
    async with open_kv(tmp_path) as kv:
        assert await kv.get("n", "k") == KVEntry("v", {"a": 1})


async def test_times(kv: KVStore) -> None:
    """An overwritten key keeps the time of its creation; one that had expired is new."""
    index = StoredItemIndex(database_of(kv))

    async def times() -> tuple[Any, Any]:
        [found] = (await index.list_items(StoredItemFilter(), 9, 0))[0]
        return found.created_at, found.updated_at

    await kv.put("n", "k", "1", expiration_ttl=0.05)
    first = await times()
    assert first[0] == first[1]
    await kv.put("n", "k", "2", expiration_ttl=0.05)
    second = await times()
    assert second[0] == first[0] < second[1]
    await asyncio.sleep(0.06)
    await kv.put("n", "k", "3")
    third = await times()
    assert third[0] == third[1] > second[1]


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("character", ["a", "\0", "é", "€", "😀"])
async def test_key_limit(kv: KVStore, character: str) -> None:
    """A key has at most 512 bytes, whatever is done with it."""
    most = character * (512 // len(character.encode()))
    await kv.put("n", most, "v")
    assert await is_there(kv, most)
    for refused in (
        kv.put("n", most + character, "v"), kv.get("n", most + character),
        kv.delete("n", most + character),
    ):  # fmt: skip
        with pytest.raises(TooLarge, match="512"):
            await refused


@pytest.mark.parametrize("character", ["a", "\0", "é", "😀"])
async def test_value_limit(kv: KVStore, character: str) -> None:
    """A value has at most so many bytes; a refused one leaves the old one."""
    most = character * (MAX_VALUE // len(character.encode()))
    await kv.put("n", "k", most)
    with pytest.raises(TooLarge, match="max_kv_value"):
        await kv.put("n", "k", most + character)
    assert (await kv.get("n", "k")).value == most


@pytest.mark.parametrize("character", ["a", "é", "😀"])
async def test_metadata_limit(kv: KVStore, character: str) -> None:
    """Metadata has at most 1024 bytes as compact JSON in UTF-8."""
    room = 1024 - len('{"a":""}')
    text = character * (room // len(character.encode()))
    await kv.put("n", "k", "v", {"a": text})
    assert (await kv.get("n", "k")).metadata == {"a": text}
    with pytest.raises(TooLarge, match="1024"):
        await kv.put("n", "k", "w", {"a": text + character})
    assert (await kv.get("n", "k")).value == "v"


# ---------------------------------------------------------------- quotas


async def test_namespace_quota(tmp_path: Path) -> None:
    """Keys, values and metadata count; the error has the figures; other namespaces have room."""
    async with open_kv(tmp_path, StorageQuotas(namespace=1000)) as kv:
        await kv.put("n", "k", "v" * 900, {"a": 1})
        with pytest.raises(QuotaExceeded) as raised:
            await kv.put("n", "kk", "v" * 99)
        assert raised.value.details == {"quota": 1000, "used": 908, "requested": 101}
        assert not await is_there(kv, "kk")
        await kv.put("other", "kk", "v" * 99)
        await kv.put("n", "k", "v" * 992, {"a": 1})  # the same key, to the last byte
        with pytest.raises(QuotaExceeded):
            await kv.put("n", "k", "v" * 993, {"a": 1})
        await kv.put("n", "k", "")
        await kv.put("n", "kk", "v" * 900)
        assert await counters(kv) == await counted(kv)


async def test_server_quota(tmp_path: Path) -> None:
    """All namespaces share the server's quota; what is deleted makes room."""
    async with open_kv(tmp_path, StorageQuotas(server=1000)) as kv:
        for number in range(9):
            await kv.put(f"n{number}", "k", "v" * 99)
        with pytest.raises(QuotaExceeded, match="storage_quota") as raised:
            await kv.put("more", "k", "v" * 100)
        assert raised.value.details == {"quota": 1000, "used": 900, "requested": 101}
        await kv.delete("n0", "k")
        await kv.put("more", "k", "v" * 100)


async def test_many_small_keys_count(tmp_path: Path) -> None:
    """Keys without values are not free: no quota is passed by them."""
    async with open_kv(tmp_path, StorageQuotas(namespace=10_000)) as kv:
        with pytest.raises(QuotaExceeded):
            for number in range(100):
                await kv.put("n", f"{number:0512}", "")
        assert await stored_rows(kv) == 10_000 // 512


async def test_expired_keys_are_not_in_the_way(tmp_path: Path) -> None:
    """A put that finds no room because of what nobody sees any more gets it."""
    async with open_kv(tmp_path, StorageQuotas(namespace=100_000)) as kv:
        many = (kv.put("n", f"{n:03}", "v" * 197, expiration_ttl=2) for n in range(500))
        await asyncio.gather(*many)
        with pytest.raises(QuotaExceeded):
            await kv.put("n", "k", "v")
        await asyncio.sleep(2.1)
        await kv.put("n", "k", "v" * 90_000)
        assert await names(kv) == ["k"]
        assert await counters(kv) == await counted(kv)


# ---------------------------------------------------------------- time


async def test_expired_at_once(kv: KVStore) -> None:
    """Nothing shows an expired key, whether or not it is deleted yet; a new put may revive it."""
    index = StoredItemIndex(database_of(kv))
    await kv.put("n", "dies", "v", expiration_ttl=0.1)
    await kv.put("n", "lives", "v", expiration_ttl=1000)
    assert await names(kv) == ["dies", "lives"]
    await asyncio.sleep(0.11)
    assert await stored_rows(kv) == 2
    assert not await is_there(kv, "dies")
    assert await names(kv) == ["lives"]
    assert await names(kv, "d") == []
    found, total = await index.list_items(StoredItemFilter(), 9, 0)
    assert ([one.key for one in found], total) == (["lives"], 1)
    totals = await index.totals()
    assert (totals.total, totals.total_size, totals.by_namespace) == (1, 1, {"n": 1})
    await kv.put("n", "dies", "w")
    assert await names(kv) == ["dies", "lives"]
    await kv.delete("n", "dies")
    assert await counters(kv) == await counted(kv)


async def test_put_sets_the_expiry_anew(kv: KVStore) -> None:
    """A put without a time to live makes a key that stays."""
    await kv.put("n", "k", "v", expiration_ttl=0.05)
    await kv.put("n", "k", "w")
    await kv.put("n", "l", "v")
    await kv.put("n", "l", "w", expiration_ttl=0.05)
    await asyncio.sleep(0.06)
    assert await names(kv) == ["k"]


async def deleted_in_time(kv: KVStore, left: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while await stored_rows(kv) > left:
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


async def test_swept_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired keys are deleted in the background, a few in each transaction, and uncounted."""
    monkeypatch.setattr(kv_expiry, "MIN_DELAY", 0.01)
    async with open_kv(tmp_path, sweeps=True) as kv:
        await kv.put("n", "stays", "v", expiration_ttl=1000)
        for first in range(0, 1000, 100):
            await asyncio.gather(
                *(
                    kv.put(f"n{n % 3}", f"k{n}", "v" * n, {"n": n}, expiration_ttl=0.1)
                    for n in range(first, first + 100)
                )
            )
        assert await deleted_in_time(kv, 1)
        assert await counters(kv) == {"": (1, 1, 5), "n": (1, 1, 5)}
        # One that expires sooner than all that are waited for is noticed, too.
        await kv.put("n", "again", "v", expiration_ttl=0.05)
        assert await deleted_in_time(kv, 1)


async def test_swept_after_a_start(tmp_path: Path) -> None:
    """What expired while no server ran goes after the next start."""
    async with open_kv(tmp_path) as kv:
        for number in range(300):
            await kv.put("n", f"{number}", "v", expiration_ttl=0.01)
    async with open_kv(tmp_path, sweeps=True) as kv:
        assert await deleted_in_time(kv, 0)
        assert await counters(kv) == {"": (0, 0, 0)}


@pytest.mark.parametrize("seconds", [1e-9, 1e12, 1e300])
async def test_any_time_to_live(tmp_path: Path, seconds: float) -> None:
    """Very short and very long lives are lives."""
    async with open_kv(tmp_path, sweeps=True) as kv:
        await kv.put("n", "k", "v", expiration_ttl=seconds)
        assert await is_there(kv, "k") == (seconds > 1)


# ---------------------------------------------------------------- pages


async def all_pages(
    kv: KVStore,
    namespace: str,
    prefix: str,
    limit: int,
    between: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> list[str]:
    """The names of all pages; `between` runs after each."""
    found, cursor = [], ""
    while True:
        page = await kv.list_keys(namespace, prefix, limit, cursor)
        assert len(page.keys) <= limit
        found += [key.name for key in page.keys]
        cursor = page.cursor
        if not cursor:
            return found
        assert len(page.keys) == limit
        if between is not None:
            await between()


async def test_pages_end(kv: KVStore) -> None:
    """The last page has no cursor, also when it is full."""
    for number in range(4):
        await kv.put("n", f"k{number}", "v")
    for limit in (1, 2, 3, 4, 5):
        assert await all_pages(kv, "n", "", limit) == ["k0", "k1", "k2", "k3"]
    assert (await kv.list_keys("n", limit=4)).cursor == ""
    assert await all_pages(kv, "none", "", 1) == []


async def test_cursor_of_a_deleted_key(kv: KVStore) -> None:
    """A cursor works when its key is gone, and with a prefix that comes before or after it."""
    for name in ("a1", "a2", "b1", "b2"):
        await kv.put("n", name, "v")
    cursor = (await kv.list_keys("n", limit=2)).cursor
    await kv.delete("n", "a2")
    await kv.put("n", "a3", "v")
    page = await kv.list_keys("n", limit=9, cursor=cursor)
    assert [key.name for key in page.keys] == ["a3", "b1", "b2"]
    for prefix, expected in (("a", ["a3"]), ("b", ["b1", "b2"]), ("A", [])):
        page = await kv.list_keys("n", prefix, cursor=cursor)
        assert [key.name for key in page.keys] == expected
    with pytest.raises(InvalidRequest):
        await kv.list_keys("n", cursor="no cursor")


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("has_end", [False, True])
async def test_list_is_a_range(kv: KVStore, is_after: bool, has_end: bool) -> None:
    """A page is read by one search of an index that holds all of it, in its order."""
    query = list_query(is_after=is_after, has_end=has_end)
    values = {"namespace": "n", "start": "", "end": "z", "now": 0, "limit": 1}
    plan = await database_of(kv).read(
        lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
    )
    [step] = [row[3] for row in plan]
    assert step.startswith("SEARCH kv USING COVERING INDEX kv_list (namespace=? AND key>?"), step


# ---------------------------------------------------------------- against a dict


@dataclass
class OpenKV:
    """A store on a loop that is run for each example."""

    runner: asyncio.Runner
    kv: KVStore
    numbers: Iterator[int]

    def namespace(self) -> str:
        return f"n{next(self.numbers)}"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenKV]:
    """One store for many examples, each of which takes a namespace of its own."""
    with asyncio.Runner() as runner:
        path = tmp_path_factory.mktemp("kv")
        database = runner.run(Database.open(path / "era.db", MIGRATIONS))
        kv = KVStore(database, NO_QUOTAS, MAX_VALUE)
        yield OpenKV(runner, kv, itertools.count())
        runner.run(database.aclose())


KEY = st.text(st.sampled_from(ODD_CHARACTERS), min_size=1, max_size=4) | st.text(min_size=1).filter(
    lambda key: len(key.encode()) <= 512
)
VALUE = st.text(max_size=20)
METADATA = st.none() | st.dictionaries(st.text(max_size=3), VALUE | st.integers(), max_size=2)
PUT = st.tuples(st.just("put"), KEY, VALUE, METADATA)
DELETE = st.tuples(st.just("delete"), KEY, st.just(""), st.none())
CHANGES = st.lists(PUT | PUT | DELETE, max_size=12)
PREFIX = st.text(st.sampled_from(ODD_CHARACTERS), max_size=2)
MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def change(
    kv: KVStore, namespace: str, model: dict[str, KVEntry], changes: list[Any]
) -> None:
    """Changes store and model alike."""
    for what, key, value, metadata in changes:
        if what == "put":
            await kv.put(namespace, key, value, metadata)
            model[key] = KVEntry(value, metadata or {})
        else:
            await kv.delete(namespace, key)
            model.pop(key, None)


@MANY
@given(changes=CHANGES, prefix=PREFIX, limit=st.integers(1, 5))
def test_like_a_dict(opened: OpenKV, changes: list[Any], prefix: str, limit: int) -> None:
    """After any changes every key has its last entry, and each prefix lists its keys in order."""
    namespace, model, kv = opened.namespace(), {}, opened.kv

    async def example() -> None:
        await change(kv, namespace, model, changes)
        for _, key, _, _ in changes:
            if key in model:
                assert await kv.get(namespace, key) == model[key]
            else:
                assert not await is_there(kv, key, namespace)
        for wanted in {prefix, *(key[:2] for key in model)}:
            expected = sorted((k for k in model if k.startswith(wanted)), key=str.encode)
            assert await all_pages(kv, namespace, wanted, limit) == expected

    opened.runner.run(example())


@MANY
@given(before=CHANGES, between=st.lists(CHANGES, max_size=6), prefix=PREFIX)
def test_pages_beside_writes(
    opened: OpenKV, before: list[Any], between: list[list[Any]], prefix: str
) -> None:
    """While others write, a list has every key that stays once, in order, and no unknown one."""
    namespace, model, kv = opened.namespace(), {}, opened.kv
    waiting = iter(between)

    async def example() -> None:
        await change(kv, namespace, model, before)
        always, ever = set(model), set(model)

        async def write() -> None:
            for changes in itertools.islice(waiting, 1):
                await change(kv, namespace, model, changes)
                always.difference_update(c[1] for c in changes if c[0] == "delete")
                ever.update(model)

        found = await all_pages(kv, namespace, prefix, 2, write)
        assert found == sorted(set(found), key=str.encode)
        assert {key for key in always if key.startswith(prefix)} <= set(found)
        assert set(found) <= {key for key in ever if key.startswith(prefix)}

    opened.runner.run(example())


def test_counters_after_all(opened: OpenKV) -> None:
    """After all of these examples, the counters are what the rows are."""

    async def example() -> None:
        assert await counters(opened.kv) == await counted(opened.kv)

    opened.runner.run(example())


# ---------------------------------------------------------------- many, and a full disk


async def test_many_at_once(kv: KVStore) -> None:
    """Of many puts of one key at once, one is there in the end, whole, and counted once."""
    puts = (kv.put("n", "k", f"{n}" * 1000, {"n": n}) for n in range(50))
    await asyncio.gather(*puts)
    entry = await kv.get("n", "k")
    assert entry.value == str(entry.metadata["n"]) * 1000
    assert await counters(kv) == await counted(kv)


async def test_full_disk(tmp_path: Path) -> None:
    """Where there is no room a put fails and changes nothing; later there is room again."""
    with small_disk(tmp_path, "1500k") as disk:
        async with open_kv(disk) as kv:
            await kv.put("n", "k", "old")
            filler = disk / "filler"
            filler.write_bytes(b"x" * 600_000)
            with pytest.raises(InsufficientStorage):
                for number in range(100):
                    await kv.put("n", f"k{number}", "v" * 90_000)
            assert (await kv.get("n", "k")).value == "old"
            assert await counters(kv) == await counted(kv)
            filler.unlink()
            await kv.put("n", "k", "new")
            assert (await kv.get("n", "k")).value == "new"

"""Objects of R2: whole, durable, by any key; blobs come and go with their rows."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from era_kernels.errors import (
    InsufficientStorage,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StorageFailed,
    TooLarge,
)
from era_kernels.models import StorageQuotas
from era_kernels.storage import pending_removals, r2
from era_kernels.storage.database import Database
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.r2 import R2Store
from era_kernels.storage.r2_table import StoredObject
from tests.conftest import entered
from tests.storage.stores import small_disk
from tests.waiting import wait_until

MIB = 1024 * 1024
NO_QUOTAS = StorageQuotas()
LONG_KEY = "é" * 512
KEYS = ["a", "a/b", "..", ".", "//", "a//b", " ", "\0", "☃", "\U0010ffff", "%2e", LONG_KEY, "\n"]


@dataclass
class Objects:
    """A store on a directory, and short words for what tests do with it."""

    store: R2Store
    database: Database
    path: Path

    async def put(
        self, key: str, data: bytes, namespace: str = "n", **more: object
    ) -> StoredObject:
        upload = await self.store.start_upload(namespace, key, len(data))
        try:
            for start in range(0, len(data), 100_000):
                await upload.write(data[start : start + 100_000])
            return await self.store.put(namespace, key, upload, **more)  # type: ignore[arg-type]
        finally:
            upload.discard()

    async def get(self, key: str, namespace: str = "n") -> bytes:
        stored, file = await self.store.open(namespace, key)
        try:
            return b"".join([chunk async for chunk in file.read(0, stored.size)])
        finally:
            await file.aclose()

    def blobs(self) -> list[Path]:
        return [file for file in (self.path / "r2").glob("??/*") if file.is_file()]

    def incoming(self) -> list[Path]:
        return list((self.path / "r2" / "incoming").iterdir())

    async def counted(self, namespace: str = "n") -> tuple[int, int]:
        """The number of objects and bytes that the counters tell."""
        query = "SELECT count, size FROM storage_usage WHERE type = 'r2' AND namespace = ?"
        row = await self.database.read(
            lambda connection: connection.execute(query, (namespace,)).fetchone()
        )
        return row or (0, 0)


@asynccontextmanager
async def open_objects(
    path: Path, quotas: StorageQuotas = NO_QUOTAS, max_object: int = 5 * MIB
) -> AsyncIterator[Objects]:
    """Opens a store as the server does, and closes it at the end."""
    database = await Database.open(path / "era.db", MIGRATIONS)
    store = R2Store(database, path / "r2", path / "unlink.lock", quotas, max_object)
    try:
        await store.sweep()
        yield Objects(store, database, path)
    finally:
        await store.aclose()
        await store.aclose()
        await database.aclose()


@pytest.fixture
def objects(io_loop: IOLoop, tmp_path: Path) -> Iterator[Objects]:
    with entered(io_loop, open_objects(tmp_path)) as objects:
        yield objects


async def eventually(path: Path, count: int) -> bool:
    """Waits until there are so many blobs."""
    condition = lambda: len(list((path / "r2").glob("??/*"))) == count  # noqa: E731 - short
    return await asyncio.to_thread(wait_until, condition)


# ---------------------------------------------------------------- put, open, delete


@pytest.mark.parametrize("size", [0, 1, 524_287, 524_288, 3 * MIB + 1])
async def test_round_trip(tmp_path: Path, size: int) -> None:
    """An object comes back byte for byte, with its size, MD5, type and metadata."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with open_objects(tmp_path) as objects:
        metadata = {"a": "b", "ключ": "☃\0"}
        put = await objects.put("k", data, content_type="image/png", custom_metadata=metadata)
        assert (put.size, put.etag) == (size, hashlib.md5(data).hexdigest())
        assert await objects.get("k") == data
        found = await objects.store.find("n", "k")
        assert found == put
        assert found.status.etag == f'"{put.etag}"'
        assert objects.incoming() == []
        assert await objects.counted() == (1, size)
    async with open_objects(tmp_path) as objects:
        assert await objects.get("k") == data
        assert await objects.store.find("n", "k") == put


async def test_every_key(objects: Objects, tmp_path: Path) -> None:
    """Any text is a key, and none is a name of a file."""
    for key in KEYS:
        await objects.put(key, key.encode())
    for key in KEYS:
        assert await objects.get(key) == key.encode()
    listed, truncated = await objects.store.list("n")
    assert [one.key for one in listed] == sorted(KEYS, key=str.encode)
    assert not truncated
    inside = {path.relative_to(tmp_path / "r2") for path in objects.blobs()}
    assert all(len(path.name) == 32 and path.name[:2] == path.parent.name for path in inside)
    assert len(inside) == len(KEYS)


async def test_overwrite_and_delete(objects: Objects, tmp_path: Path) -> None:
    """An object is replaced whole and keeps its time of creation; its old blob goes."""
    first = await objects.put("k", b"first", custom_metadata={"a": "b"}, content_type="a/b")
    second = await objects.put("k", b"second!")
    found = await objects.store.find("n", "k")
    assert found is not None
    assert (found.created_at, found.updated_at) == (first.created_at, second.updated_at)
    assert (found.custom_metadata, found.content_type) == ({}, "")
    assert await objects.get("k") == b"second!"
    assert await objects.counted() == (1, 7)
    assert await eventually(tmp_path, 1)
    assert await objects.store.delete("n", "k")
    assert not await objects.store.delete("n", "k")
    assert not await objects.store.delete("n", "other")
    with pytest.raises(ObjectNotFound):
        await objects.get("k")
    assert await objects.counted() == (0, 0)
    assert await eventually(tmp_path, 0)


async def test_opened_objects_stay(objects: Objects, tmp_path: Path) -> None:
    """What was opened stays readable when its object is replaced or deleted."""
    data = os.urandom(3 * MIB)
    await objects.put("k", data)
    _, first = await objects.store.open("n", "k")
    await objects.put("k", b"new")
    _, second = await objects.store.open("n", "k")
    await objects.store.delete("n", "k")
    assert await eventually(tmp_path, 0)
    assert b"".join([chunk async for chunk in first.read(0, len(data))]) == data
    assert b"".join([chunk async for chunk in second.read(0, 3)]) == b"new"
    await first.aclose()
    await second.aclose()


async def test_concurrent_puts(objects: Objects, tmp_path: Path) -> None:
    """Of many puts of one key the last commit wins, whole, and the other blobs go."""
    contents = [bytes([number]) * (200_000 + number) for number in range(20)]
    puts = await asyncio.gather(*(objects.put("k", data) for data in contents))
    found = await objects.store.find("n", "k")
    assert found is not None
    assert found.etag in {put.etag for put in puts}
    data = await objects.get("k")
    assert data in contents
    assert hashlib.md5(data).hexdigest() == found.etag
    assert await objects.counted() == (1, found.size)
    assert await eventually(tmp_path, 1)


async def test_reads_beside_writes(objects: Objects) -> None:
    """Readers of a key that is replaced all the time always get one whole object."""
    await objects.put("k", b"0" * 10)

    async def write() -> None:
        for number in range(60):
            await objects.put("k", bytes([number]) * 1000)

    async def read() -> None:
        for _ in range(120):
            assert len(set(await objects.get("k"))) == 1

    await asyncio.gather(write(), read(), read())


async def test_discarded_upload(objects: Objects) -> None:
    """An upload that is given up leaves the old object and no file."""
    await objects.put("k", b"old")
    upload = await objects.store.start_upload("n", "k", 0)
    await upload.write(b"x" * MIB)
    upload.discard()
    upload.discard()
    assert await asyncio.to_thread(wait_until, lambda: not objects.incoming())
    assert await objects.get("k") == b"old"


# ---------------------------------------------------------------- conditions and bounds


async def test_preconditions(objects: Objects, tmp_path: Path) -> None:
    """A condition sees the object at the commit, and what it refuses changes nothing."""

    def only_new(found: StoredObject | None) -> None:
        if found is not None:
            raise PreconditionFailed("It is there.")

    await objects.put("k", b"old", precondition=only_new)
    with pytest.raises(PreconditionFailed):
        await objects.put("k", b"new", precondition=only_new)
    with pytest.raises(PreconditionFailed):
        await objects.store.start_upload("n", "k", 0, only_new)
    with pytest.raises(PreconditionFailed):
        await objects.store.delete("n", "k", only_new)
    assert await objects.get("k") == b"old"
    assert await objects.counted() == (1, 3)
    assert await eventually(tmp_path, 1)
    results = await asyncio.gather(
        *(objects.put("once", b"x", precondition=only_new) for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 9


async def test_overhead(tmp_path: Path) -> None:
    """Key, type and metadata count for the quotas, not for the size; a delete gives all back."""
    async with open_objects(tmp_path, StorageQuotas(namespace=100)) as objects:

        async def overhead() -> list[tuple[int, int, int]]:
            query = "SELECT count, size, overhead FROM storage_usage WHERE type = 'r2'"
            return await objects.database.read(
                lambda connection: connection.execute(query).fetchall()
            )

        await objects.put("ké", b"x", content_type="a/b", custom_metadata={"é": "12"})
        assert await overhead() == [(1, 1, 21)] * 2
        with pytest.raises(QuotaExceeded):
            await objects.put("ké", b"x", custom_metadata={"a": "x" * 89})
        with pytest.raises(QuotaExceeded):  # before its bytes come
            await objects.store.start_upload("n", "y" * 90, 0)
        await objects.put("ké", b"x", custom_metadata={"a": "x" * 88})
        assert await overhead() == [(1, 1, 99)] * 2
        await objects.put("ké", b"x" * 97)  # larger bytes, and smaller in all
        assert await overhead() == [(1, 97, 3)] * 2
        await objects.store.delete("n", "ké")
        assert await overhead() == [(0, 0, 0)]


async def test_quotas(tmp_path: Path) -> None:
    """A quota is checked before the bytes come, and at the commit for those that came at once."""
    # Keys have a byte each, which counts beside those of the objects.
    async with open_objects(tmp_path, StorageQuotas(server=152, namespace=102)) as objects:
        await objects.put("a", b"x" * 60)
        with pytest.raises(QuotaExceeded):
            await objects.store.start_upload("n", "b", 42)
        upload = await objects.store.start_upload("n", "b", 0)
        await upload.write(b"x" * 41)
        with pytest.raises(QuotaExceeded):
            await objects.store.put("n", "b", upload)
        upload.discard()
        assert await eventually(tmp_path, 1)
        await objects.put("a", b"y" * 100)
        await objects.put("a", b"y" * 99)
        await objects.put("b", b"y")
        with pytest.raises(QuotaExceeded):
            await objects.put("c", b"x" * 51, namespace="other")
        results = await asyncio.gather(
            *(objects.put(str(number), b"x" * 20, namespace="other") for number in range(5)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, QuotaExceeded) for result in results) == 3
        assert await objects.counted("other") == (2, 40)
        assert await eventually(tmp_path, 4)


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("k" * 1000, {}),
        ("é" * 500, {}),
        ("k", {"custom_metadata": {"a": "x" * 1000}}),
        ("k", {"custom_metadata": {"n" * 1000: ""}}),
        ("k", {"custom_metadata": {"a": "\u20ac" * 150}}),
        ("k", {"content_type": f"text/{'x' * 1000}"}),
    ],
    ids=["key", "wide key", "value", "name", "wide value", "type"],
)
async def test_quotas_count_all(tmp_path: Path, key: str, more: dict[str, Any]) -> None:
    """Empty objects take room, too: that of keys, types and metadata; a deletion gives it back."""
    async with open_objects(tmp_path, StorageQuotas(server=9000, namespace=4500)) as objects:
        for namespace in ("n", "other"):
            put = [f"{number}{key}" for number in range(100)]
            with pytest.raises(QuotaExceeded):
                for one in put:
                    await objects.put(one, b"", namespace, **more)
            count, size = await objects.counted(namespace)
            assert 1 < count < 5
            assert size == 0
        await objects.put(put[0], b"", "other")
        for namespace in ("n", "other"):
            for one in put[:5]:
                await objects.store.delete(namespace, one)
        left = await objects.database.read(
            lambda connection: connection.execute(
                "SELECT namespace, count, size, overhead FROM storage_usage"
            ).fetchall()
        )
        assert left == [("", 0, 0, 0)]


async def test_max_object(tmp_path: Path) -> None:
    """An object that is too large is refused before its bytes come."""
    async with open_objects(tmp_path, max_object=10) as objects:
        await objects.put("k", b"x" * 10)
        with pytest.raises(TooLarge):
            await objects.store.start_upload("n", "k", 11)
        with pytest.raises(TooLarge):
            await objects.store.start_upload("n", f"{LONG_KEY}x", 1)


# ---------------------------------------------------------------- lists


async def test_pages(objects: Objects) -> None:
    """Pages follow each other by the last key, also while objects come and go."""
    for number in range(25):
        await objects.put(f"k{number:02}", b"x")
    await objects.put("k07", b"x", namespace="other")
    first, more = await objects.store.list("n", "k", 10)
    assert ([one.key for one in first], more) == ([f"k{n:02}" for n in range(10)], True)
    await objects.store.delete("n", "k09")
    await objects.store.delete("n", "k10")
    await objects.put("k09a", b"x")
    second, more = await objects.store.list("n", "k", 14, "k09")
    assert [one.key for one in second] == ["k09a", *(f"k{n:02}" for n in range(11, 24))]
    assert more
    assert [one.key for one in (await objects.store.list("n", "k0", 100, "k06"))[0]] == [
        "k07", "k08", "k09a"
    ]  # fmt: skip
    assert await objects.store.list("none") == ([], False)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "delete", "get", "list"]),
            st.sampled_from(["n", "N"]),
            st.text("a/.\0é\U0010ffff", min_size=1, max_size=3),
            st.binary(max_size=20),
        ),
        max_size=30,
    )
)
def test_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, bytes]]
) -> None:
    """Whatever is done, the store holds what a dict would hold, also after the next start."""
    path = tmp_path_factory.mktemp("model")
    model: dict[tuple[str, str], bytes] = {}

    async def check(objects: Objects) -> None:
        for namespace in ("n", "N"):
            wanted = sorted((k for s, k in model if s == namespace), key=str.encode)
            listed, _ = await objects.store.list(namespace)
            assert [one.key for one in listed] == wanted
            sizes = [len(model[namespace, key]) for key in wanted]
            assert await objects.counted(namespace) == (len(wanted), sum(sizes))
        for (namespace, key), data in model.items():
            assert await objects.get(key, namespace) == data

    async def run() -> None:
        async with open_objects(path) as objects:
            for action, namespace, key, data in steps:
                if action == "put":
                    await objects.put(key, data, namespace)
                    model[namespace, key] = data
                elif action == "delete":
                    deleted = await objects.store.delete(namespace, key)
                    assert deleted == (model.pop((namespace, key), None) is not None)
                elif action == "get":
                    found = await objects.store.find(namespace, key)
                    assert (found is None) == ((namespace, key) not in model)
                else:
                    keys = [one.key for one in (await objects.store.list(namespace, key))[0]]
                    assert set(keys) == {
                        k for s, k in model if s == namespace and k.startswith(key)
                    }
            await check(objects)
        async with open_objects(path) as objects:
            await check(objects)
            assert len(objects.blobs()) == len(model)

    asyncio.run(run())


# ---------------------------------------------------------------- what a crash leaves, and backups


async def test_sweep(tmp_path: Path) -> None:
    """A start removes blobs that were being made or unlinked, and unfinished uploads.

    Blobs that the database does not know otherwise are moved to lost+found.
    """
    async with open_objects(tmp_path) as objects:
        await objects.put("k", b"kept")
        names = [f"ab{number:030}" for number in range(3)]
        (tmp_path / "r2" / "ab").mkdir(exist_ok=True)
        for name in names:
            (tmp_path / "r2" / "ab" / name).write_bytes(b"x")
        (tmp_path / "r2" / "unfinished" / names[0]).touch()
        await objects.database.write(
            partial(pending_removals.insert, pending_removals.BLOB, [names[1]])
        )
        (tmp_path / "r2" / "incoming" / "0123456789abcdef").write_bytes(b"x")
    async with open_objects(tmp_path) as objects:
        assert await eventually(tmp_path, 1)
        assert objects.incoming() == []
        assert await objects.get("k") == b"kept"
        assert objects.store.lost_count == 0
    assert list((tmp_path / "r2" / "unfinished").iterdir()) == []
    [moved] = (tmp_path / "lost+found").iterdir()
    assert moved.name.startswith(f"{names[2]}.")


async def test_lost_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row whose blob is gone is reported and stays; a put or a delete mends it."""
    async with open_objects(tmp_path) as objects:
        for key in "abc":
            await objects.put(key, b"x")
        one = await objects.store.find("n", "a")
        assert one is not None
        (tmp_path / "r2" / one.blob[:2] / one.blob).unlink()
        with pytest.raises(StorageFailed, match="lost"):
            await objects.get("a")
        assert objects.store.lost_count == 1
    caplog.clear()
    async with open_objects(tmp_path) as objects:
        assert objects.store.lost_count == 1
        assert "objects lost their bytes" in caplog.text
        assert len((await objects.store.list("n"))[0]) == 3
        await objects.put("a", b"again")
        assert objects.store.lost_count == 0
        assert await objects.get("a") == b"again"


async def test_backup_holds_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a backup holds the lock no blob is unlinked, also by the next start; then all are."""
    monkeypatch.setattr(r2, "UNLINK_RETRY_SECONDS", 0.05)
    with closing_lock(tmp_path / "unlink.lock") as lock:
        async with open_objects(tmp_path) as objects:
            fcntl.flock(lock, fcntl.LOCK_SH)
            await objects.put("a", b"1")
            await objects.put("a", b"2")
            await objects.put("b", b"3")
            await objects.store.delete("n", "b")
            await asyncio.sleep(0.3)
            assert len(objects.blobs()) == 3
        async with open_objects(tmp_path) as objects:
            await asyncio.sleep(0.3)
            assert len(objects.blobs()) == 3
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert await eventually(tmp_path, 1)
            assert await objects.get("a") == b"2"


class closing_lock:
    """The lock of a backup."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *args: object) -> None:
        os.close(self._descriptor)


async def test_full_disk(tmp_path: Path) -> None:
    """An object that finds no room is refused and leaves the old one; with room it is put."""
    with small_disk(tmp_path, "8M") as disk:
        async with open_objects(disk, max_object=100 * MIB) as objects:
            await objects.put("k", b"old")
            with pytest.raises(InsufficientStorage):
                await objects.put("k", b"x" * 20 * MIB)
            assert await asyncio.to_thread(wait_until, lambda: not objects.incoming())
            assert await objects.get("k") == b"old"
            await objects.put("k", b"y" * 2 * MIB)
            assert await objects.get("k") == b"y" * 2 * MIB


async def test_failed_commit(tmp_path: Path) -> None:
    """A put whose commit fails leaves the old object; its blob goes at the next start at last."""
    async with open_objects(tmp_path) as objects:
        await objects.put("k", b"old")
        with closing(sqlite3.connect(tmp_path / "era.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageFailed):
                await objects.put("k", b"new")
        assert await objects.get("k") == b"old"
    async with open_objects(tmp_path) as objects:
        assert await eventually(tmp_path, 1)
        assert await objects.get("k") == b"old"

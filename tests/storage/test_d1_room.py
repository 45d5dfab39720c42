"""D1 on a disk of which some is to be kept free, and the logs that ended workers leave behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import InsufficientStorage, QuotaExceeded, SqlTimeout, StorageFailed
from era_kernels.models import StorageQuotas
from era_kernels.storage.d1 import store as store_module
from era_kernels.storage.d1.files import size_with_log
from era_kernels.storage.d1.store import D1Statement
from era_kernels.storage.disk_room import DiskRoom
from tests.storage.d1_stores import D1, DEAF, open_d1
from tests.storage.stores import small_disk
from tests.storage.test_d1 import FILL, busy_pid, until

MIB = 1024 * 1024
DISK, RESERVE = 192 * MIB, 64 * MIB
MEGABYTES = FILL.format(rows="{rows}", size=1_000_000)
# Writes so many megabytes to the log, then does what SQLite cannot stop.
FILL_DEAF = """
INSERT INTO t SELECT CASE WHEN x <= {rows} THEN randomblob(1000000) ELSE ({deaf}) END FROM (
WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {rows} + 1) SELECT x FROM c)
""".replace("{deaf}", DEAF)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, str(DISK)) as disk:
        yield disk


def open_on(disk: Path, **limits: Any) -> Any:
    room = DiskRoom(disk, RESERVE)
    return open_d1(disk, check_room=room.check, find_least_free=room.find_least_free, **limits)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def take(disk: Path, left: int) -> Path:
    """Takes the room of the disk but for so many bytes, and returns the file."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(disk) - left)
    return filler


@contextmanager
def lowest(disk: Path) -> Iterator[list[int]]:
    """Looks all the time at what is free; the list holds the least in the end."""
    found, is_over = [DISK], threading.Event()

    def look() -> None:
        while not is_over.wait(0.002):
            found[0] = min(found[0], free(disk))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def log_of(d1: D1, namespace: str = "n") -> int:
    path = d1.directory / f"{namespace}.db-wal"
    return path.stat().st_size if path.exists() else 0


async def log_is_empty(d1: D1, namespace: str = "n") -> None:
    async def is_empty() -> bool:
        return not log_of(d1, namespace)

    await until(is_empty)


# ---------------------------------------------------------------- the reserve


@pytest.mark.parametrize(
    "sql",
    [
        MEGABYTES.format(rows=100),  # would fit if it were written once
        MEGABYTES.format(rows=900),
        "INSERT INTO t VALUES (zeroblob(20000000)); " * 10,
        f"INSERT INTO t VALUES {', '.join(['(zeroblob(20000000))'] * 10)}",
        f"CREATE TABLE u (a); {MEGABYTES.format(rows=50)}; UPDATE t SET a = randomblob(4000000)",
    ],
    ids=["twice", "much", "statements", "values", "update"],
)
async def test_change_that_takes_the_reserve(disk: Path, sql: str) -> None:
    """It is undone, and takes nothing of the reserve; reads go on, and changes that fit work."""
    async with open_on(disk) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec("INSERT INTO t VALUES (1)")
        with lowest(disk) as least:
            changing = asyncio.ensure_future(d1.exec(sql))
            while not changing.done():
                assert await d1.query("SELECT a FROM t") == [{"a": 1}]
                await asyncio.sleep(0.02)
        with pytest.raises(InsufficientStorage, match="disk_reserve"):
            changing.result()
        assert least[0] > RESERVE * 3 // 4  # all of it, where nobody else keeps the processors

        async def is_given_back() -> bool:
            return free(disk) > DISK - 2 * MIB

        await until(is_given_back)
        assert not log_of(d1)
        await d1.exec(MEGABYTES.format(rows=20))
        assert await d1.query("SELECT count(*) AS n FROM t") == [{"n": 21}]


async def test_next_change_goes_on(disk: Path) -> None:
    """What follows a change that was stopped, in the same worker, is not stopped for it."""
    count = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000000) "
    async with open_on(disk) as d1:
        await d1.exec("CREATE TABLE t (a)")
        for _ in range(2):
            with pytest.raises(InsufficientStorage, match="disk_reserve"):
                await d1.exec(MEGABYTES.format(rows=150))
            await d1.exec(f"{count} INSERT INTO t SELECT count(*) FROM c")
        assert await d1.query("SELECT a FROM t") == [{"a": 1_000_000}] * 2


async def test_writers_together(disk: Path) -> None:
    """Together they take nothing of the reserve either, with what is copied after the commits."""
    names = ["a", "b", "c", "d"]
    async with open_on(disk) as d1:
        for name in names:
            await d1.exec("CREATE TABLE t (a)", namespace=name)
        with lowest(disk) as least:
            changes = [d1.exec(MEGABYTES.format(rows=40), None, name) for name in names]
            ended = await asyncio.gather(*changes, return_exceptions=True)
        assert least[0] > RESERVE * 3 // 4  # all of it, where nobody else keeps the processors
        assert any(isinstance(end, InsufficientStorage) for end in ended)
        for name, end in zip(names, ended, strict=True):
            rows = await d1.query("SELECT count(*) AS n FROM t", namespace=name)
            assert rows == [{"n": 0 if isinstance(end, BaseException) else 40}]
            await log_is_empty(d1, name)


async def test_change_that_does_not_hear(disk: Path) -> None:
    """One that cannot be interrupted ends with its worker when others fill the disk."""
    async with open_on(disk, timeout=60) as d1:
        await d1.exec("CREATE TABLE t (a)")
        changing = asyncio.ensure_future(d1.exec(FILL_DEAF.format(rows=20)))

        async def is_written() -> bool:
            return log_of(d1) > 15 * MIB

        await until(is_written)
        pid = await busy_pid(d1)
        filler = take(disk, RESERVE - MIB)
        with pytest.raises(InsufficientStorage, match="disk_reserve"):
            await asyncio.wait_for(changing, 10)
        await log_is_empty(d1)
        filler.unlink()
        await d1.exec("INSERT INTO t VALUES (1)")
        assert await d1.query("SELECT a FROM t") == [{"a": 1}]
        assert pid not in d1.store.workers.worker_pids


async def test_deletion_below_the_reserve(disk: Path) -> None:
    """Deletion goes on, whatever of it: DROP and DELETE, and what only reads in a change."""
    async with open_on(disk) as d1:
        for name in ("t", "u"):
            await d1.exec(f"CREATE TABLE {name} (a)")
            await d1.exec(MEGABYTES.format(rows=20).replace("INTO t", f"INTO {name}"))
        await d1.exec("CREATE TABLE small (a); CREATE INDEX i ON small (a)")
        await d1.exec(FILL.format(rows=20_000, size=100).replace("INTO t", "INTO small"))
        await asyncio.sleep(2)  # the logs are emptied
        take(disk, RESERVE - MIB)
        await d1.exec("DELETE FROM small WHERE rowid % 2")
        await d1.exec("DELETE FROM t")
        began = free(disk)
        await d1.exec("DROP TABLE u")
        assert free(disk) > began - MIB  # its pages are not written once more
        [row] = (
            await d1.batch(
                [
                    D1Statement("DELETE FROM small WHERE rowid < 100"),
                    D1Statement("SELECT count(*) AS n FROM small"),
                ]
            )
        )[1:]
        assert row.rows == b'[{"n":9951}]'
        with pytest.raises(InsufficientStorage, match="disk_reserve"):
            await d1.exec("INSERT INTO small VALUES (1)")

        async def is_smaller() -> bool:
            return (d1.directory / "n.db").stat().st_size < 10 * MIB

        await until(is_smaller)


async def test_deletion_leaves_half_of_the_reserve(disk: Path) -> None:
    """The log of a deletion that changes every page takes half of the reserve at most."""
    async with open_on(disk) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec(FILL.format(rows=100_000, size=500))
        await asyncio.sleep(2)
        take(disk, RESERVE // 2 + 4 * MIB)
        with lowest(disk) as least, pytest.raises(InsufficientStorage, match="disk_reserve"):
            await d1.exec("DELETE FROM t WHERE rowid % 2")
        assert least[0] > RESERVE // 4
        await log_is_empty(d1)
        await d1.exec("DELETE FROM t WHERE rowid % 2 AND rowid < 5000")


async def test_without_a_reserve(disk: Path) -> None:
    """Where nothing is to be kept free, changes go on to the end of the disk."""
    async with open_d1(disk) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec(MEGABYTES.format(rows=40))
        with pytest.raises(InsufficientStorage, match="no room left"):
            await d1.exec(MEGABYTES.format(rows=200))
        assert await d1.query("SELECT count(*) AS n FROM t") == [{"n": 40}]


# ---------------------------------------------------------------- logs that are left


@asynccontextmanager
async def slow_looks(
    path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, **options: Any
) -> AsyncIterator[D1]:
    """Opens a store that looks at what changed after so many seconds."""
    monkeypatch.setattr(store_module, "REFRESH_SECONDS", seconds)
    async with open_d1(path, **options) as d1:
        yield d1


async def has_room(d1: D1) -> bool:
    """Returns whether the quotas leave 20 MB for another namespace."""
    try:
        await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000000))", None, "m")
    except QuotaExceeded:
        return False
    return True


@pytest.mark.parametrize("is_killed", [False, True], ids=["deadline", "killed"])
async def test_log_of_an_ended_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """It counts for the quotas, and is emptied soon, without another request."""
    quotas = StorageQuotas(server=40 * MIB)
    timeout = 60.0 if is_killed else 4.0
    async with slow_looks(tmp_path, monkeypatch, 4, quotas=quotas, timeout=timeout) as d1:
        await d1.exec("CREATE TABLE t (a)")
        changing = asyncio.ensure_future(d1.exec(FILL_DEAF.format(rows=30)))
        if is_killed:

            async def is_written() -> bool:
                return log_of(d1) > 25 * MIB

            await until(is_written)
            os.kill(await busy_pid(d1), 9)
        with pytest.raises(StorageFailed if is_killed else SqlTimeout):
            await changing
        assert log_of(d1) > 20 * MIB
        assert not await has_room(d1)
        await log_is_empty(d1)
        await until(partial(has_room, d1))


async def test_log_of_a_killed_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left beside a database counts from the next start on, and is emptied soon."""
    (tmp_path / "d1").mkdir()
    async with open_d1(tmp_path / "d1") as d1:
        await d1.exec("CREATE TABLE t (a)")
        changing = asyncio.ensure_future(d1.exec(FILL_DEAF.format(rows=30)))

        async def is_written() -> bool:
            return log_of(d1) > 25 * MIB

        await until(is_written)
        shutil.copytree(d1.directory, tmp_path / "after" / "d1")
        os.kill(await busy_pid(d1), 9)
        with pytest.raises(StorageFailed):
            await changing
    quotas = StorageQuotas(server=40 * MIB)
    async with slow_looks(tmp_path / "after", monkeypatch, 3, quotas=quotas) as d1:
        assert size_with_log(d1.directory / "n.db") > 25 * MIB
        assert not await has_room(d1)
        await log_is_empty(d1)
        await until(partial(has_room, d1))
        assert await d1.query("SELECT * FROM t") == []


async def test_large_logs_are_emptied(tmp_path: Path) -> None:
    """That of a large change goes with it, or when the last one who read beside it is done."""
    async with open_d1(tmp_path, timeout=5) as d1:
        await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        await d1.exec(MEGABYTES.format(rows=20))
        assert not log_of(d1)
        slow = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000000000) "
        reading = asyncio.ensure_future(
            d1.query(
                slow.format(n=10**9) + "SELECT count(*) AS n FROM c, (SELECT a FROM t LIMIT 1)"
            )
        )
        await busy_pid(d1)
        await asyncio.sleep(0.5)
        await d1.exec(MEGABYTES.format(rows=20))
        assert log_of(d1) > 15 * MIB
        with pytest.raises(SqlTimeout):
            await reading
        await log_is_empty(d1)

"""The database: group commit, readers beside the writer, and what happens when it goes wrong."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlite_utils
from sqlite_utils import Migrations

from era_kernels.errors import InsufficientStorage, StartError, StorageFailed
from era_kernels.storage import database as database_module
from era_kernels.storage import group_commit as writer_module
from era_kernels.storage.database import Database
from era_kernels.storage.unused_pages import KEPT_PAGES
from tests.storage.stores import small_disk
from tests.waiting import until

SCHEMA = Migrations("test")
PAGE_BYTES = 4096


@SCHEMA()
def first(db: sqlite_utils.Database) -> None:
    db.table("t").create({"n": int, "x": str}, pk="n")


@asynccontextmanager
async def open_database(path: Path, migrations: Migrations = SCHEMA) -> AsyncIterator[Database]:
    database = await Database.open(path / "t.db", migrations)
    try:
        yield database
    finally:
        await database.aclose()


def put(number: int, text: str = "") -> object:
    return lambda connection: (
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, text)).rowcount
    )


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


async def test_transactions_are_reported(tmp_path: Path) -> None:
    """Each transaction is reported: its seconds, its writes, and those that failed."""
    reports: list[tuple[float, int, int]] = []

    database = await Database.open(
        tmp_path / "t.db", SCHEMA, lambda *report: reports.append(report)
    )
    await database.write(put(1))
    with pytest.raises(StorageFailed):
        await database.write(put(1))  # the key is taken
    database.write_soon(put(2))
    await database.aclose()
    assert all(0 < seconds < 10 for seconds, _, _ in reports)
    assert [(writes, failures) for _, writes, failures in reports] == [(1, 0), (1, 1), (1, 0)]


async def test_writes_are_read_and_survive(tmp_path: Path) -> None:
    """What `write` returned for is read at once, and after the file was opened again."""
    async with open_database(tmp_path) as database:
        assert await database.write(put(1)) == 1
        assert await database.read(numbers) == [1]
    async with open_database(tmp_path) as database:
        assert await database.read(numbers) == [1]
    assert not (tmp_path / "t.db-wal").exists()
    assert (tmp_path / "t.db").stat().st_mode & 0o777 == 0o600


async def test_commits_reach_the_disk(tmp_path: Path) -> None:
    """Each commit of the writer is followed by an fsync of the WAL."""
    async with open_database(tmp_path) as database:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2)):
            row = database._writer._connection.execute(f"PRAGMA {pragma}").fetchone()
            assert row == (value,)


async def test_an_exception_undoes_its_own_work_only(tmp_path: Path) -> None:
    """Of many writes in one batch, those that fail leave nothing, the others all."""

    def fails(number: int) -> object:
        def work(connection: sqlite3.Connection) -> None:
            put(1000 + number)(connection)
            raise LookupError(number)

        return work

    async with open_database(tmp_path) as database:
        works = [fails(n) if n % 3 == 0 else put(n) for n in range(100)]
        outcomes = await asyncio.gather(*map(database.write, works), return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if n % 3 == 0:
                assert isinstance(outcome, LookupError)
                assert outcome.args == (n,)
            else:
                assert outcome == 1
        assert await database.read(numbers) == [n for n in range(100) if n % 3]


async def test_waiting_writes_share_a_commit(tmp_path: Path) -> None:
    """What waits while a commit is under way goes into the next one together."""
    commits: list[str] = []

    async with open_database(tmp_path) as database:
        trace = lambda text: commits.append(text) if text == "COMMIT" else None  # noqa: E731
        await database.write(lambda connection: connection.set_trace_callback(trace))
        slow = asyncio.create_task(database.write(lambda connection: time.sleep(0.1)))
        await asyncio.sleep(0.05)
        commits.clear()
        await asyncio.gather(slow, *(database.write(put(n)) for n in range(200)))
        assert await database.read(numbers) == list(range(200))
    assert len(commits) == 2


async def test_a_failed_commit_fails_every_waiter(tmp_path: Path) -> None:
    """A failed commit raises in each caller and stores nothing; the next write works."""

    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = on")
        connection.execute("INSERT INTO child VALUES (12345)")

    async with open_database(tmp_path) as database:
        # A foreign key that is checked at the commit only.
        await database.write(
            lambda c: (
                c.execute(
                    "CREATE TABLE child (n REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)"
                ).rowcount
            )
        )
        database._writer._connection.execute("PRAGMA foreign_keys = on")
        outcomes = await asyncio.gather(
            *(database.write(work) for work in (put(1), spoil, put(2))), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        assert all(isinstance(o.__cause__, sqlite3.IntegrityError) for o in outcomes)
        assert await database.read(numbers) == []
        await database.write(put(3))
        assert await database.read(numbers) == [3]


async def test_cancelled_callers_break_nothing(tmp_path: Path) -> None:
    """Writes whose callers are cancelled happen all the same, and others get their answers."""
    async with open_database(tmp_path) as database:
        tasks = [asyncio.create_task(database.write(put(n))) for n in range(300)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(o, asyncio.CancelledError) for o in outcomes[::2])
        assert outcomes[1::2] == [1] * 150
        assert await database.read(numbers) == list(range(300))


async def test_soon_is_in_order_and_flushed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """write_soon keeps its place among the writes, and nothing of it is lost at the close."""
    done: list[int] = []
    async with open_database(tmp_path) as database:
        database.write_soon(put(1), done.append)
        await database.write(lambda c: c.execute("UPDATE t SET x = 'seen'").rowcount)
        for n in range(2, 50):
            database.write_soon(put(n), done.append)
        database.write_soon(put(1), done.append)
    async with open_database(tmp_path) as database:
        assert await database.read(numbers) == list(range(1, 50))
        rows = await database.read(lambda c: c.execute("SELECT n FROM t WHERE x").fetchall())
        seen = await database.read(
            lambda c: c.execute("SELECT n FROM t WHERE x = 'seen'").fetchall()
        )
        assert (rows, seen) == ([], [(1,)])
    assert done == [1] * 49
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "a write that nobody waits for is lost"
    ]


async def test_flush_waits_for_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `settled`, what was written soon is read, however long it would have been gathered."""
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 60)

    async with open_database(tmp_path) as database:
        for n in range(20):
            database.write_soon(put(n))
            await database.flush()
            assert await database.read(numbers) == list(range(n + 1))


async def test_soon_needs_nobody(tmp_path: Path) -> None:
    """What is written soon is committed by itself, in a moment."""
    async with open_database(tmp_path) as database:
        database.write_soon(put(1))
        async with asyncio.timeout(10):
            while await database.read(numbers) != [1]:
                await asyncio.sleep(0.005)


async def test_reads_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    """While a transaction is open, readers see the state before it."""
    async with open_database(tmp_path) as database:
        await database.write(put(1))

        def slow(connection: sqlite3.Connection) -> None:
            put(2)(connection)
            time.sleep(0.5)

        writing = asyncio.create_task(database.write(slow))
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(database.read(numbers), 0.3) == [1]
        await writing
        assert await database.read(numbers) == [1, 2]


async def test_long_reads_are_one_at_a_time(tmp_path: Path) -> None:
    """They leave threads to short ones, also where callers leave, of whom none waits any more."""
    gate, begun = threading.Event(), list[int]()

    def long(number: int) -> object:
        def read(connection: sqlite3.Connection) -> int:
            begun.append(number)
            gate.wait(20)
            return number

        return read

    async with open_database(tmp_path) as database:
        first, second, third = (
            asyncio.create_task(database.read_long(long(number)))  # type: ignore[arg-type]
            for number in (1, 2, 3)
        )
        await until(lambda: begun == [1])
        first.cancel()
        second.cancel()
        for _ in range(5):
            assert await database.read(numbers) == []
        assert begun == [1]
        gate.set()
        assert await third == 3
        assert begun == [1, 3]


async def test_a_read_sees_one_state_and_cannot_write(tmp_path: Path) -> None:
    """Two statements of one read see the same rows; a write in a read is StorageFailed."""
    async with open_database(tmp_path) as database:
        await database.write(put(1))
        loop = asyncio.get_running_loop()

        def twice(connection: sqlite3.Connection) -> list[list[int]]:
            before = numbers(connection)
            asyncio.run_coroutine_threadsafe(database.write(put(2)), loop).result(10)
            return [before, numbers(connection)]

        assert await database.read(twice) == [[1], [1]]
        with pytest.raises(StorageFailed):
            await database.read(put(3))
        assert await database.read(numbers) == [1, 2]


async def test_the_wal_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL does not grow beyond its bound, also when readers always read."""
    monkeypatch.setattr(writer_module, "MAX_WAL_BYTES", 8 * 1024 * 1024)

    async with open_database(tmp_path) as database:
        stop = asyncio.Event()

        async def read() -> None:
            while not stop.is_set():
                await database.read(lambda c: (numbers(c), time.sleep(0.003)))

        readers = [asyncio.create_task(read()) for _ in range(4)]
        largest = 0
        for n in range(150):
            await database.write(put(n, "x" * 300_000))
            largest = max(largest, (tmp_path / "t.db-wal").stat().st_size)
        stop.set()
        await asyncio.gather(*readers)
        assert largest < 12 * 1024 * 1024


async def test_the_wal_is_written_back_when_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment after the last write, the database file itself holds it."""
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.05)

    async with open_database(tmp_path) as database:
        await database.write(put(1, "find me " * 10))
        await until(lambda: b"find me" in (tmp_path / "t.db").read_bytes())


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize("is_older", [False, True])
async def test_what_was_deleted_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_busy: bool, is_older: bool
) -> None:
    """Room that was used once is given back to the disk, whether or not others write meanwhile."""
    path = tmp_path / "t.db"
    if is_older:
        with monkeypatch.context() as patched:
            for name in ("let_file_shrink", "rewrite_older"):
                patched.setattr(database_module, name, lambda connection: None)
            async with open_database(tmp_path):
                pass
    async with open_database(tmp_path) as database:
        for number in range(4):
            await database.write(put(number, "x" * 20_000_000))
        await database.write(lambda c: c.execute("DELETE FROM t").rowcount)
        async with asyncio.timeout(30):
            while path.stat().st_size > 2 * KEPT_PAGES * PAGE_BYTES:
                if is_busy:
                    await database.write(_no_write)
                await asyncio.sleep(0.02)
        await database.write(put(1))
        assert await database.read(numbers) == [1]


def _no_write(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE t SET x = ''")


async def test_closed_is_an_error(tmp_path: Path) -> None:
    """After aclose, which may be called twice, every call is StorageFailed."""
    database = await Database.open(tmp_path / "t.db", SCHEMA)
    await database.aclose()
    await database.aclose()
    for call in (database.write(put(1)), database.read(numbers), database.check()):
        with pytest.raises(StorageFailed):
            await call
    with pytest.raises(StorageFailed):
        database.write_soon(put(1))


async def test_check_tells_a_lost_file(tmp_path: Path) -> None:
    """check is silent while all is well, and raises when the file was removed or replaced."""
    async with open_database(tmp_path) as database:
        await database.check()
        (tmp_path / "t.db").rename(tmp_path / "gone")
        with pytest.raises(StorageFailed):
            await database.check()
        (tmp_path / "t.db").write_bytes(b"")
        with pytest.raises(StorageFailed, match="replaced"):
            await database.check()


async def test_a_newer_file_is_refused_and_an_older_one_migrated(tmp_path: Path) -> None:
    """Unknown migrations in the file are a StartError; missing ones are applied."""
    newer = Migrations("test")
    newer(name="first")(first)
    newer(name="second")(lambda db: db.execute("ALTER TABLE t ADD COLUMN y TEXT"))

    async with open_database(tmp_path) as database:
        await database.write(put(1))
    async with open_database(tmp_path, newer) as database:
        rows = await database.read(lambda c: c.execute("SELECT n, y FROM t").fetchall())
        assert rows == [(1, None)]
    with pytest.raises(StartError, match=r"newer version .*second"):
        await Database.open(tmp_path / "t.db", SCHEMA)


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, None])
async def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Foreign content, or a directory in its place, is a StartError with a sentence."""
    path = tmp_path / "t.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    with pytest.raises(StartError, match="cannot be opened"):
        await Database.open(path, SCHEMA)


async def test_a_full_disk(tmp_path: Path) -> None:
    """Writes to a full disk are 507, reads go on, and it recovers by itself when there is room."""
    with small_disk(tmp_path, "2M") as disk:
        async with open_database(disk) as database:
            await database.write(put(0))
            ballast = disk / "ballast"
            await asyncio.to_thread(_fill, ballast)
            failures = 0
            for n in range(1, 6):
                try:
                    await database.write(put(n, "x" * 200_000))
                except InsufficientStorage:
                    failures += 1
            assert failures
            outcomes = await asyncio.gather(
                *(database.write(put(n, "x" * 200_000)) for n in range(100, 110)),
                return_exceptions=True,
            )
            assert InsufficientStorage in map(type, outcomes)
            known = await database.read(numbers)
            assert len(known) == 1 + (5 - failures) + outcomes.count(1)
            ballast.unlink()
            await database.write(put(1000, "x" * 1000))
            assert await database.read(numbers) == [*known, 1000]
            await database.check()


async def test_what_nobody_waits_for_waits_for_room(tmp_path: Path) -> None:
    """On a full disk it is kept, in its order, and comes with the next write that finds room."""
    with small_disk(tmp_path, "6M") as disk:
        async with open_database(disk) as database:
            await database.write(put(0))
            ballast = disk / "ballast"
            await asyncio.to_thread(_fill, ballast)
            after: list[object] = []
            # More cannot fit into what was allotted before the disk was full.
            for n in range(1, 11):
                database.write_soon(put(n, "x" * 200_000), after.append)
            await database.flush()
            assert len(await database.read(numbers)) < 11
            database.write_soon(lambda connection: connection.execute("UPDATE t SET x = 'late'"))
            ballast.unlink()
            await database.flush()
            assert await database.read(numbers) == list(range(11))
            assert await database.read(_texts) == [("late",)]
            assert after == [1] * 10


def _texts(connection: sqlite3.Connection) -> list[tuple[str]]:
    return connection.execute("SELECT DISTINCT x FROM t").fetchall()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return

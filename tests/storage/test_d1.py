"""D1's store: transactions, types, limits, deaths of workers, and the index of tables."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import (
    EraError,
    InsufficientStorage,
    InvalidRequest,
    QueueFull,
    QuotaExceeded,
    ShuttingDown,
    SqlError,
    SqlReadOnly,
    SqlTimeout,
    StorageFailed,
    TooLarge,
)
from era_kernels.models import StorageQuotas
from era_kernels.storage.d1 import store as store_module
from era_kernels.storage.d1 import worker_pool
from era_kernels.storage.d1.store import D1Statement
from era_kernels.storage.d1.worker_process import WorkerProcess
from tests.conftest import entered, loop
from tests.storage.d1_stores import D1, DEAF, ENDLESS, open_d1

MIB = 1024 * 1024
FILL = (
    "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {rows}) "
    "INSERT INTO t SELECT randomblob({size}) FROM c"
)


_numbers = itertools.count()


io_loop = pytest.fixture(loop, scope="module")


@pytest.fixture(scope="module")
def opened(io_loop: IOLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[D1]:
    with entered(io_loop, open_d1(tmp_path_factory.mktemp("d1"))) as d1:
        yield d1


@pytest.fixture
def d1(opened: D1) -> D1:
    """A store as it usually is, with a namespace that no other test has."""
    return replace(opened, namespace=f"n{next(_numbers)}")


async def until(condition: Any, seconds: float = 20) -> Any:
    """Waits until a coroutine function returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, "too late"
        await asyncio.sleep(0.02)
    return found


async def busy_pid(d1: D1) -> int:
    """Returns the pid of the worker that runs a statement."""

    async def find() -> int:
        return next((worker.pid for worker in d1.store.workers._busy), 0)

    return int(await until(find))


# ---------------------------------------------------------------- transactions


async def test_exec_and_query(d1: D1) -> None:
    """What exec wrote, query reads; figures tell what happened."""
    made = await d1.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    assert (made.rows, made.meta["changes"], made.meta["changed_db"]) == (None, 0, True)
    added = await d1.exec("INSERT INTO t (a) VALUES (?), (?)", ["x", "y"])
    assert (added.meta["changes"], added.meta["last_row_id"]) == (2, 2)
    assert added.meta["rows_written"] == 2
    assert added.meta["size_after"] % 4096 == 0
    changed = await d1.exec("UPDATE t SET a = 'z'")
    assert (changed.meta["changes"], changed.meta["last_row_id"]) == (2, 0)
    nothing = await d1.exec("DELETE FROM t WHERE id = 9")
    assert (nothing.meta["changes"], nothing.meta["changed_db"]) == (0, False)
    assert await d1.query("SELECT * FROM t") == [{"id": 1, "a": "z"}, {"id": 2, "a": "z"}]


async def test_missing_database_is_empty(tmp_path: Path) -> None:
    """A query on a namespace that does not exist sees an empty database, and makes no file."""
    async with open_d1(tmp_path) as d1:
        assert await d1.query("SELECT count(*) AS n FROM sqlite_schema") == [{"n": 0}]
        with pytest.raises(SqlError) as raised:
            await d1.query("SELECT * FROM t")
        assert raised.value.details == "no such table: t"
        with pytest.raises(SqlReadOnly):
            await d1.query("CREATE TABLE t (a)")
        assert not d1.directory.exists()
        await d1.exec("CREATE TABLE t (a)")
        assert await d1.query("SELECT * FROM t") == []
        assert (d1.directory / "n.db").stat().st_mode & 0o777 == 0o600
        assert d1.directory.stat().st_mode & 0o777 == 0o700


async def test_many_statements(d1: D1) -> None:
    """Several statements are one transaction: sums of changes, all or nothing."""
    result = await d1.exec(
        """
        CREATE TABLE t (a); -- a comment; with a semicolon
        CREATE TABLE log (a);
        CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO log VALUES (1); SELECT 2; END;
        INSERT INTO t VALUES ('a;b'), ("c"), (';');;
        UPDATE t SET a = 1 WHERE a = ';' ; SELECT count(*) AS n FROM log
        """.replace('("c")', "('c')")
    )
    assert (result.meta["changes"], result.rows) == (4, b'[{"n":3}]')
    with pytest.raises(SqlError):
        await d1.exec("DELETE FROM t; DROP TABLE log; INSERT INTO nowhere VALUES (1)")
    assert await d1.query("SELECT count(*) AS n FROM t, log") == [{"n": 9}]
    with pytest.raises(SqlError, match="batch"):
        await d1.exec("DELETE FROM t WHERE a = ?; SELECT 1", [1])
    for empty in ("", " ", ";", "-- nothing", "/* nothing */ ;;"):
        with pytest.raises(SqlError, match="no statement"):
            await d1.exec(empty)


async def test_batch(d1: D1) -> None:
    """A batch is one transaction, in which each statement has its own parameters and answer."""
    statements = [
        D1Statement("CREATE TABLE t (a UNIQUE, b)"),
        D1Statement("INSERT INTO t VALUES (?, ?) RETURNING a", [1, "x"]),
        D1Statement("INSERT INTO t VALUES (:a, :b)", {"a": 2, ":b": "y"}),
        D1Statement("SELECT * FROM t"),
    ]
    results = await d1.batch(statements)
    rows = [result.rows for result in results]
    assert rows == [None, b'[{"a":1}]', None, b'[{"a":1,"b":"x"},{"a":2,"b":"y"}]']
    assert [result.meta["changes"] for result in results] == [0, 1, 1, 0]
    with pytest.raises(SqlError, match="Entry 1 of the batch") as raised:
        await d1.batch([D1Statement("DELETE FROM t"), D1Statement("INSERT INTO t VALUES (1)")])
    assert raised.value.details == "table t has 2 columns but 1 values were supplied"
    assert await d1.query("SELECT count(*) AS n FROM t") == [{"n": 2}]
    assert await d1.batch([]) == []
    one = D1Statement("SELECT 1 AS a LIMIT 0")
    assert len(await d1.batch([one] * 10_000)) == 10_000
    with pytest.raises(TooLarge, match="10000 entries"):
        await d1.batch([one] * 10_001)


async def test_foreign_keys(d1: D1) -> None:
    """Foreign keys hold, at once or at the end of the transaction."""
    await d1.exec("CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a (id))")
    for sql in (
        "INSERT INTO b VALUES (1)",
        "PRAGMA defer_foreign_keys = on; INSERT INTO b VALUES (1)",
    ):
        with pytest.raises(SqlError) as raised:
            await d1.exec(sql)
        assert raised.value.details == "FOREIGN KEY constraint failed"
    await d1.exec(
        "PRAGMA defer_foreign_keys = on; INSERT INTO b VALUES (1); INSERT INTO a VALUES (1)"
    )
    await d1.exec("PRAGMA foreign_keys = ON; DELETE FROM b")
    assert await d1.query("SELECT count(*) AS n FROM b") == [{"n": 0}]


VALUES: list[tuple[str, Any, Any]] = [
    ("null", None, None),
    ("true", True, 1),
    ("false", False, 0),
    ("integer", 2**63 - 1, 2**63 - 1),
    ("smallest integer", -(2**63), -(2**63)),
    ("beyond doubles", 2**53 + 1, 2**53 + 1),
    ("float", 0.1, 0.1),
    ("text", "né ☃ 😀\x00\u2028", "né ☃ 😀\x00\u2028"),
    ("blob", {"base64": "AP8="}, {"base64": "AP8="}),
    ("empty blob", {"base64": ""}, {"base64": ""}),
]


@pytest.mark.parametrize(("given", "expected"), [row[1:] for row in VALUES], ids=lambda v: "")
async def test_values(d1: D1, given: Any, expected: Any) -> None:
    """Values come back as they were given, booleans as 0 and 1."""
    [found] = await d1.query("SELECT ? AS a", [given])
    assert found == {"a": expected}
    assert type(found["a"]) is type(expected)
    assert await d1.query("SELECT :a AS a", {"a": given}) == [{"a": expected}]


@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("SELECT 9e999 AS a, -9e999 AS b, 0.0 / 0 AS c", {"a": None, "b": None, "c": None}),
        ("SELECT 1 AS a, 2 AS a, 3 AS a", {"a": 1, "a_1": 2, "a_2": 3}),
        ("SELECT 1 AS a, 2 AS a_1, 3 AS a", {"a": 1, "a_1": 2, "a_2": 3}),
        ("SELECT 1 AS b, 2 AS a", {"b": 1, "a": 2}),
        ("SELECT CAST(x'41ff42' AS TEXT) AS a", {"a": "A\ufffdB"}),
        ("SELECT 1", {"1": 1}),
        ("VALUES (1, 'x')", {"column1": 1, "column2": "x"}),
        ("SELECT ?2 AS a, ?1 AS b", {"a": "y", "b": "x"}),
        ("PRAGMA user_version", {"user_version": 0}),
        ("SELECT json('[1,  2]') AS a", {"a": "[1,2]"}),
    ],
)
async def test_rows(d1: D1, sql: str, row: dict[str, Any]) -> None:
    """Columns keep their order and get names of their own; what JSON has not becomes null."""
    [found] = await d1.query(sql, ["x", "y"] if "?" in sql else None)
    assert list(found.items()) == list(row.items())


@pytest.mark.parametrize(
    "params",
    [[], [1, 2], {"a": 1}, {}, [{"base64": "?"}], [{"base64": "é"}], [{"base64": "A"}], [2**63]],
)
async def test_wrong_params(d1: D1, params: Any) -> None:
    """Too few, too many or unusable parameters are an error of the caller."""
    with pytest.raises(InvalidRequest):
        await d1.query("SELECT ? AS a", params)
    assert await d1.query("SELECT ? AS a", [1]) == [{"a": 1}]


# ---------------------------------------------------------------- limits


async def test_rows_and_bytes(tmp_path: Path) -> None:
    """Rows and bytes of a request are bounded together; past a bound nothing has changed."""
    async with open_d1(tmp_path, max_rows=10, max_result=1000) as d1:
        many = (
            "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}) "
            "SELECT x FROM c"
        )
        assert len(await d1.query(many.format(10))) == 10
        with pytest.raises(TooLarge, match="10 rows"):
            await d1.query(many.format(11))
        with pytest.raises(TooLarge, match="1000 bytes"):
            await d1.query("SELECT printf('%.*c', 1000, 'a')")
        await d1.exec("CREATE TABLE t (a)")
        with pytest.raises(TooLarge):
            await d1.exec(f"INSERT INTO t {many.format(11)} RETURNING a")
        with pytest.raises(TooLarge):
            await d1.batch([D1Statement(many.format(6)), D1Statement(many.format(6))])
        assert await d1.query("SELECT count(*) AS n FROM t") == [{"n": 0}]


@pytest.mark.parametrize("sql", [ENDLESS, DEAF], ids=["heard", "killed"])
async def test_deadline(tmp_path: Path, sql: str) -> None:
    """A statement past its deadline is stopped, or killed; the next request is served at once."""
    async with open_d1(tmp_path, timeout=1.5) as d1:
        await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        for run, text in ((d1.query, sql), (d1.exec, f"DELETE FROM t; {sql}")):
            began = time.monotonic()
            with pytest.raises(SqlTimeout) as raised:
                await run(text)
            # A worker that is killed may have been storing the change.
            is_certain = run == d1.query or sql == ENDLESS
            assert ("it changed nothing" in raised.value.message) == is_certain
            assert 1.4 < time.monotonic() - began < 15
        assert await d1.query("SELECT a FROM t") == [{"a": 1}]


async def test_memory(tmp_path: Path) -> None:
    """A statement that needs too much memory ends alone."""
    async with open_d1(tmp_path, timeout=60) as d1:
        await d1.exec("CREATE TABLE t (a)")
        sort = (
            "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 500000) "
            "SELECT randomblob(1000) AS a FROM c ORDER BY 1"
        )
        columns = ", ".join(["zeroblob(30000000)"] * 20)
        for sql in (sort, f"SELECT {columns}"):
            with pytest.raises(TooLarge, match="memory"):
                await d1.query(sql)
            assert await d1.query("SELECT count(*) AS n FROM t") == [{"n": 0}]


async def test_database_size(tmp_path: Path) -> None:
    """A database grows to its bound and not further; what is deleted makes room again."""
    async with open_d1(tmp_path, max_database=MIB) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec(FILL.format(rows=50, size=10_000))
        with pytest.raises(TooLarge, match="sql_max_database") as raised:
            await d1.exec(FILL.format(rows=100, size=10_000))
        assert not isinstance(raised.value, QuotaExceeded)
        assert await d1.query("SELECT count(*) AS n FROM t") == [{"n": 50}]
        await d1.exec("DELETE FROM t")
        await d1.exec(FILL.format(rows=50, size=10_000))


async def test_quotas(tmp_path: Path) -> None:
    """A database may take what the quotas leave: those of its namespace, and of the server."""
    quotas = StorageQuotas(server=2_900_000, namespace=2 * MIB)
    async with open_d1(tmp_path, quotas) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec(FILL.format(rows=150, size=10_000))
        with pytest.raises(QuotaExceeded, match="quota"):
            await d1.exec(FILL.format(rows=100, size=10_000))
        await d1.exec("CREATE TABLE t (a)", namespace="other")
        with pytest.raises(QuotaExceeded):
            await d1.exec(FILL.format(rows=150, size=10_000), namespace="other")
        await d1.exec(FILL.format(rows=50, size=10_000), namespace="other")
        with pytest.raises(QuotaExceeded):
            await d1.exec("CREATE TABLE x (a); INSERT INTO x VALUES (zeroblob(900000))", None, "3")


async def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told apart from a full database."""
    from era_kernels.storage.d1.worker import outcomes

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    full = outcomes.sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = outcomes.sqlite3.SQLITE_FULL
    assert outcomes.outcome_of(full, str(tmp_path)) == outcomes.Outcome.DATABASE_FULL
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    assert outcomes.outcome_of(full, str(tmp_path)) == outcomes.Outcome.DISK_FULL


GROWING = [
    "INSERT INTO t VALUES (2)", "UPDATE t SET a = zeroblob(9)", "REPLACE INTO t VALUES (2)",
    "WITH x AS (SELECT 2) INSERT INTO t SELECT * FROM x", "CREATE TABLE u (a)",
    "CREATE INDEX i ON t (a)", "CREATE VIEW v AS SELECT 1", "ALTER TABLE t ADD COLUMN b",
    "CREATE VIRTUAL TABLE g USING fts5(a)", "INSERT INTO f VALUES ('more')", "REINDEX", "ANALYZE",
    "DELETE FROM t; INSERT INTO t VALUES (2)", "DELETE FROM logged",
]  # fmt: skip
NOT_GROWING = [
    "SELECT * FROM t", "DELETE FROM t WHERE a = 3", "DELETE FROM f",
    "WITH x AS (SELECT 3) DELETE FROM t WHERE a = 3", "DROP TABLE IF EXISTS none",
    "DROP INDEX other", "DROP TABLE logged", "DROP TABLE f", "EXPLAIN INSERT INTO t VALUES (2)",
]  # fmt: skip
LOGGED = """
CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE INDEX other ON t (a);
CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('word');
CREATE TABLE logged (a); INSERT INTO logged VALUES (1);
CREATE TRIGGER log AFTER DELETE ON logged BEGIN INSERT INTO t VALUES (old.a); END
"""


async def test_reserved_disk(tmp_path: Path) -> None:
    """Where no room is left for more, what takes room is refused; reads and deletions go on."""
    is_short = False

    def check_room() -> None:
        if is_short:
            raise InsufficientStorage("less than disk_reserve")

    async with open_d1(tmp_path, check_room=check_room) as d1:
        await d1.exec(LOGGED)
        is_short = True
        for sql in GROWING:
            with pytest.raises(InsufficientStorage, match="disk_reserve"):
                await d1.exec(sql)
            with pytest.raises(InsufficientStorage, match="disk_reserve"):
                await d1.batch([D1Statement("SELECT 1"), D1Statement(sql)])
            assert await d1.query("SELECT * FROM t") == [{"a": 1}], sql
        for sql in NOT_GROWING:
            await d1.exec(sql)
        with pytest.raises(InsufficientStorage, match="disk_reserve"):
            await d1.exec("SELECT 1", namespace="new")
        assert not (d1.directory / "new.db").exists()
        is_short = False
        await d1.exec("INSERT INTO t VALUES (2)")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("content", [None, b"no database" * 1000, b"\0" * 8192])
async def test_file_in_the_way(tmp_path: Path, content: bytes | None) -> None:
    """A directory or another file in the place of a database is told, and left alone."""
    path = tmp_path / "d1" / "n.db"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    async with open_d1(tmp_path) as d1:
        for run in (d1.query("SELECT * FROM sqlite_schema"), d1.exec("CREATE TABLE t (a)")):
            with pytest.raises(StorageFailed):
                await run
        assert path.is_dir() if content is None else path.read_bytes() == content
        await d1.exec("CREATE TABLE t (a)", namespace="other")


async def test_damaged_file(tmp_path: Path) -> None:
    """A damaged database is told as such, and works again when it was restored."""
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec(FILL.format(rows=100, size=1000))
    path = tmp_path / "d1" / "n.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * 40_000 + whole[48_192:])
    async with open_d1(tmp_path) as d1:
        with pytest.raises(StorageFailed):
            await d1.query("SELECT sum(length(a)) FROM t")
        path.write_bytes(whole)
        assert await d1.query("SELECT sum(length(a)) AS n FROM t") == [{"n": 100_000}]


async def test_survives(tmp_path: Path) -> None:
    """Databases are there after the next start, as one file each."""
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        await d1.query("SELECT * FROM t")
    assert [path.name for path in (tmp_path / "d1").iterdir()] == ["n.db"]
    async with open_d1(tmp_path) as d1:
        assert await d1.query("SELECT a FROM t") == [{"a": 1}]


async def test_many_databases(tmp_path: Path) -> None:
    """More databases than are kept open are served all the same."""
    async with open_d1(tmp_path) as d1:
        names = [f"n{number}" for number in range(80)]
        for name in names:
            await d1.exec(f"CREATE TABLE t AS SELECT '{name}' AS a", namespace=name)
        for name in names:
            assert await d1.query("SELECT a FROM t", namespace=name) == [{"a": name}]
        for pid in d1.store.workers.worker_pids:
            assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 60


# ---------------------------------------------------------------- workers


async def test_killed_worker(tmp_path: Path) -> None:
    """A worker that dies costs its statement alone: nothing of it stays, others go on."""
    async with open_d1(tmp_path, timeout=60) as d1:
        await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        doomed = asyncio.ensure_future(d1.exec(f"DELETE FROM t; {ENDLESS}"))
        pid = await busy_pid(d1)
        reading = asyncio.ensure_future(d1.query("SELECT a FROM t"))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StorageFailed, match="ended before it answered"):
            await doomed
        assert await reading == [{"a": 1}]
        await d1.exec("INSERT INTO t VALUES (2)")
        assert await d1.query("SELECT a FROM t") == [{"a": 1}, {"a": 2}]


async def test_killed_idle_workers(tmp_path: Path) -> None:
    """Workers that die while they wait are replaced."""
    async with open_d1(tmp_path) as d1:
        for _ in range(3):
            assert await d1.query("SELECT 1 AS a") == [{"a": 1}]
            for pid in d1.store.workers.worker_pids:
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.1)
        assert await d1.query("SELECT 1 AS a") == [{"a": 1}]


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "x"), RuntimeError("can't start new thread"), MemoryError()]
)
async def test_workers_that_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Where workers cannot be started for want of anything, they are once there is enough."""
    monkeypatch.setattr(worker_pool, "RESTART_SECONDS", 0.05)
    start, failures = WorkerProcess.start, iter([error] * 9)

    async def start_or_fail(*arguments: int) -> WorkerProcess:
        for failure in failures:
            raise failure
        return await start(*arguments)

    monkeypatch.setattr(WorkerProcess, "start", start_or_fail)
    async with open_d1(tmp_path, timeout=10) as d1:
        assert await d1.query("SELECT 1 AS a") == [{"a": 1}]


async def test_two_writers(d1: D1) -> None:
    """Writers of one namespace take turns, and none fails for another."""
    await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (0)")
    await asyncio.gather(*[d1.exec("UPDATE t SET a = a + 1") for _ in range(60)])
    assert await d1.query("SELECT a FROM t") == [{"a": 60}]


async def test_reads_beside_a_writer(tmp_path: Path) -> None:
    """Reads go on beside the writer of their namespace, and see what was committed."""
    async with open_d1(tmp_path, timeout=3) as d1:
        await d1.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        writing = asyncio.ensure_future(d1.exec(f"DELETE FROM t; {ENDLESS}"))
        await busy_pid(d1)
        assert await d1.query("SELECT a FROM t") == [{"a": 1}]
        assert not writing.done()
        with pytest.raises(SqlTimeout):
            await writing


async def test_fair_turns(tmp_path: Path) -> None:
    """Slow statements of some namespaces do not keep others waiting."""
    async with open_d1(tmp_path, timeout=5) as d1:
        await d1.query("SELECT 1")
        slow = [
            asyncio.ensure_future(d1.query(ENDLESS, namespace=f"slow{number % 3}"))
            for number in range(12)
        ]
        await busy_pid(d1)
        began = time.monotonic()
        for _ in range(20):
            assert await d1.query("SELECT 1 AS a", namespace="other") == [{"a": 1}]
        assert time.monotonic() - began < 3
        assert not any(task.done() for task in slow)
        failures = await asyncio.gather(*slow, return_exceptions=True)
        assert {type(error).__name__ for error in failures} <= {"SqlTimeout", "Unavailable"}


@pytest.mark.parametrize("sql", [ENDLESS, DEAF], ids=["heard", "killed"])
async def test_long_requests_never_take_all_workers(tmp_path: Path, sql: str) -> None:
    """Databases that nobody knew before, however many, leave a worker to short requests."""
    count = worker_pool.MAX_WORKERS + 2
    async with open_d1(tmp_path, timeout=30) as d1:
        await d1.exec("CREATE TABLE t (a)", namespace="other")
        await d1.exec("CREATE TABLE t (a)", namespace="changed")
        slow = [asyncio.ensure_future(d1.query(sql, namespace=f"new{n}")) for n in range(count)]
        change = f"DELETE FROM t; {ENDLESS}"
        slow.append(asyncio.ensure_future(d1.exec(change, namespace="changed")))
        began = time.monotonic()
        assert await d1.query("SELECT count(*) AS a FROM t", namespace="other") == [{"a": 0}]
        assert time.monotonic() - began < 15

        assert len(d1.store.workers.worker_pids) <= worker_pool.MAX_WORKERS
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_long_requests_past_the_bound_begin_again(tmp_path: Path) -> None:
    """Each of many that take a moment is answered; a change that was stopped is made once."""
    count = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}) SELECT"
    many, names = 1_500_000, [f"n{n}" for n in range(worker_pool.MAX_WORKERS + 2)]
    async with open_d1(tmp_path, timeout=60) as d1:
        for name in names:
            await d1.exec("CREATE TABLE t (a)", namespace=name)
        change = f"INSERT INTO t {count.format(many)} count(*) FROM c"
        reads = [d1.query(f"{count.format(many)} count(*) AS a FROM c", namespace=n) for n in names]
        changes = [d1.exec(change, namespace=name) for name in names]
        found, _ = await asyncio.gather(asyncio.gather(*reads), asyncio.gather(*changes))
        assert found == [[{"a": many}]] * len(names)
        for name in names:
            assert await d1.query("SELECT a FROM t", namespace=name) == [{"a": many}]


async def test_the_fewest_workers(tmp_path: Path) -> None:
    """Two workers are enough for one namespace: what comes after a long statement has its turn."""
    async with open_d1(tmp_path, workers=worker_pool.FEWEST_WORKERS, timeout=2) as d1:
        for _ in range(2):
            with pytest.raises(SqlTimeout):
                await d1.query(ENDLESS)
            assert await d1.query("SELECT 1 AS a") == [{"a": 1}]
        assert len(d1.store.workers.worker_pids) == worker_pool.FEWEST_WORKERS


async def test_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace may have so many requests waiting, and no more."""
    monkeypatch.setattr(worker_pool, "MAX_WAITING", 3)
    async with open_d1(tmp_path, timeout=1) as d1:
        tasks = [asyncio.ensure_future(d1.query(ENDLESS)) for _ in range(8)]
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(error, QueueFull) for error in failures) >= 3
        assert await d1.query("SELECT 1 AS a") == [{"a": 1}]


async def test_cancelled_read(tmp_path: Path) -> None:
    """A read that nobody waits for any more is stopped; its worker serves others."""
    async with open_d1(tmp_path, timeout=60) as d1:
        reading = asyncio.ensure_future(d1.query(ENDLESS))
        await busy_pid(d1)
        await asyncio.sleep(0.05)
        reading.cancel()

        async def is_idle() -> bool:
            return not d1.store.workers._busy

        await until(is_idle)
        assert await d1.query("SELECT 1 AS a") == [{"a": 1}]


async def test_cancelled_write(d1: D1) -> None:
    """A write goes to its end when its caller leaves."""
    await d1.exec("CREATE TABLE t (a)")
    writing = asyncio.ensure_future(d1.exec("INSERT INTO t VALUES (1)"))
    await asyncio.sleep(0)
    writing.cancel()

    async def is_there() -> bool:
        return await d1.query("SELECT a FROM t") == [{"a": 1}]

    await until(is_there)


async def test_close(tmp_path: Path) -> None:
    """Closing ends all workers, also those that are busy, and refuses what comes later."""
    async with open_d1(tmp_path, timeout=60) as d1:
        reading = asyncio.ensure_future(d1.query(ENDLESS))
        await busy_pid(d1)
        pids = d1.store.workers.worker_pids
        await d1.store.aclose()
        with pytest.raises(EraError):
            await reading
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        with pytest.raises(ShuttingDown):
            await d1.query("SELECT 1")
        await d1.store.aclose()


# ---------------------------------------------------------------- the index of tables


async def test_index_of_tables(tmp_path: Path) -> None:
    """Tables are indexed with the change of the schema, their sizes follow soon."""
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE t (a); CREATE INDEX i ON t (a); CREATE TABLE u (a)")
        assert await d1.index() == {("n", "t"): 8192, ("n", "u"): 4096}
        await d1.exec("CREATE VIRTUAL TABLE f USING fts5(a)")
        assert set(await d1.index()) == {("n", "t"), ("n", "u"), ("n", "f")}
        await d1.exec(FILL.format(rows=100, size=1000))

        async def has_grown() -> bool:
            return (await d1.index())["n", "t"] > 200_000

        await until(has_grown)
        count, size = await d1.usage()
        assert (count, size) == (3, (await d1.exec("SELECT 1")).meta["size_after"])
        await d1.exec("DROP TABLE t; DROP TABLE f")
        assert set(await d1.index()) == {("n", "u")}


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE dbstat (name, pgsize, aggregate); INSERT INTO dbstat VALUES ('t', 'x', 1)",
        "CREATE TABLE DbStat (a)",
        f"CREATE VIEW dbstat AS SELECT 't' AS name, 9e18 AS pgsize, 1 AS aggregate, ({ENDLESS})",
    ],
    ids=["table", "case", "view"],
)
async def test_sizes_are_sqlites(tmp_path: Path, sql: str) -> None:
    """What the user calls as SQLite calls its table of sizes is not asked for them."""
    async with open_d1(tmp_path) as d1:
        await d1.exec(sql)
        await d1.exec("CREATE TABLE t (a)")
        assert 0 < (await d1.index())["n", "t"] <= (await d1.usage())[1]


async def test_tables_of_the_process_are_denied(tmp_path: Path) -> None:
    """SQLite's own tables are denied, also where the user has one by the name of their list."""
    own = ("sqlite_stmt", "dbstat", "fts3tokenize", "sqlite_dbpage")
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE pragma_module_list (name); CREATE VIEW t AS SELECT 1")
    async with open_d1(tmp_path) as d1:
        for name in own:
            for run in (d1.query, d1.exec):
                with pytest.raises(SqlError, match=r"refused|no such table"):
                    await run(f"SELECT * FROM {name}")


async def test_change_while_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes between a look at the tables and the end of its count is counted after it."""
    monkeypatch.setattr(store_module, "REFRESH_SECONDS", 0.1)
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE t (a)")
        replace, sizes = d1.store._replace_tables, []

        async def replace_later(*arguments: Any) -> None:
            if not sizes:
                sizes.append((await d1.exec(FILL.format(rows=50, size=10_000))).meta["size_after"])
            await replace(*arguments)

        monkeypatch.setattr(d1.store, "_replace_tables", replace_later)
        await d1.exec("INSERT INTO t VALUES (1)")

        async def is_counted() -> bool:
            return [(await d1.usage())[1]] == sizes

        await until(is_counted)
        assert (await d1.index())["n", "t"] > 400_000


async def test_sizes_without_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the names of tables are too long to be told, changes work, and bytes are counted."""
    monkeypatch.setattr(store_module, "REFRESH_SECONDS", 0.1)
    name = "n" * 300_000
    async with open_d1(tmp_path) as d1:
        for number in range(15):
            await d1.exec(f'CREATE TABLE "{name}{number}" (a)')
        sql = f'INSERT INTO "{name}0" VALUES (zeroblob(1000000))'
        size = (await d1.exec(sql)).meta["size_after"]

        async def is_counted() -> bool:
            return (await d1.usage())[1] == size

        await until(is_counted)


async def test_space_is_given_back(tmp_path: Path) -> None:
    """A database becomes smaller some time after much of it was deleted."""
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec(FILL.format(rows=500, size=10_000))

        async def is_counted() -> bool:
            return (await d1.usage())[1] > 4 * MIB

        await until(is_counted)
        await d1.exec("DELETE FROM t")

        async def is_smaller() -> bool:
            return (await d1.usage())[1] < MIB

        await until(is_smaller)


async def test_index_after_a_crash(tmp_path: Path) -> None:
    """What was not counted before the end of a server is counted after the next start."""
    async with open_d1(tmp_path) as d1:
        await d1.exec("CREATE TABLE t (a)")
        await d1.exec("CREATE TABLE t (a)", namespace="gone")
    async with open_d1(tmp_path) as d1:
        await d1.database.write(lambda connection: connection.execute("DELETE FROM d1_tables"))
        await d1.database.write(
            lambda connection: (
                connection.execute("DELETE FROM storage_usage WHERE namespace = 'n'").rowcount
            )
        )
    (tmp_path / "d1" / "gone.db").unlink()
    async with open_d1(tmp_path) as d1:

        async def is_counted() -> bool:
            return await d1.index() == {("n", "t"): 4096}

        await until(is_counted)
        assert (await d1.usage())[0] == 1
        assert await d1.usage("gone") == (0, 0)

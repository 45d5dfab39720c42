"""Parts of D1's workers: splitting SQL, names of columns, framing, turns, counters."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.errors import StorageFailed
from era_kernels.models import StorageQuotas
from era_kernels.storage.d1.replies import D1Limits, error_of, results_of
from era_kernels.storage.d1.table_index import allowed_size, replace_tables
from era_kernels.storage.d1.worker.framing import REPLY_LENGTHS, frame_reply
from era_kernels.storage.d1.worker.outcomes import Outcome, outcome_of
from era_kernels.storage.d1.worker.rows import unique_names
from era_kernels.storage.d1.worker.sql_text import split_statements
from era_kernels.storage.d1.worker_pool import RecentNames
from era_kernels.storage.d1.worker_process import Reply, WorkerEnded, WorkerProcess
from era_kernels.storage.database import Database
from era_kernels.storage.migrations import MIGRATIONS

# ---------------------------------------------------------------- SQL


TRIGGER = "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT ';'; SELECT 2; END"
TEMP_TRIGGER = TRIGGER.replace("CREATE", "create TEMP")


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("SELECT 1", [("SELECT 1", "SELECT")]),
        ("SELECT 1; select 2;", [("SELECT 1", "SELECT"), ("select 2", "SELECT")]),
        (";;-- a; b\n/* ; */;", []),
        ("SELECT ';'';'; SELECT \";\"", [("SELECT ';'';'", "SELECT"), ('SELECT ";"', "SELECT")]),
        ("SELECT [;] , `;`; x", [("SELECT [;] , `;`", "SELECT"), ("x", "X")]),
        ("/* a */ WITH x AS (SELECT 1) SELECT 2 -- ;", [("WITH x AS (SELECT 1) SELECT 2", "WITH")]),
        (f"{TRIGGER}; DROP TABLE t", [(TRIGGER, "CREATE"), ("DROP TABLE t", "DROP")]),
        (f"{TEMP_TRIGGER};x", [(TEMP_TRIGGER, "CREATE"), ("x", "X")]),
        (f"EXPLAIN {TRIGGER}; x", [(f"EXPLAIN {TRIGGER}", "EXPLAIN"), ("x", "X")]),
        ("CREATE TABLE trigger_x (a); x", [("CREATE TABLE trigger_x (a)", "CREATE"), ("x", "X")]),
        ("SELECT 'open; SELECT 2", [("SELECT 'open; SELECT 2", "SELECT")]),
        ("SELECT 1 /* open; SELECT 2", [("SELECT 1", "SELECT")]),
        ("(1); -1", [("(1)", ""), ("-1", "")]),
        ("\ufeffSELECT 1;\ufeff", [("SELECT 1", "SELECT")]),
        (" \ufeff\n\ufeffDROP TABLE t", [("DROP TABLE t", "DROP")]),
        ("SELECT 1\n;\n\tSELECT 2\f", [("SELECT 1", "SELECT"), ("SELECT 2", "SELECT")]),
    ],
)  # fmt: skip
def test_split(sql: str, parts: list[tuple[str, str]]) -> None:
    """SQL is split where SQLite itself would, and nothing in it is changed."""
    assert [(part.sql, part.keyword) for part in split_statements(sql)] == parts


SQL_PIECES = [
    "SELECT", "CREATE", "TRIGGER", "TEMP", "END", "EXPLAIN", "BEGIN", "a", "1", "'x;'", '"y;"',
    "[z;]", "`w;`",
    "-- c;\n", "/* d; */", " ", "\n", ";", ";", "; END;", "(", ")", "'", '"', "/", "-", "*", "é",
]  # fmt: skip


@given(st.lists(st.sampled_from(SQL_PIECES), max_size=30))
def test_split_agrees_with_sqlite(pieces: list[str]) -> None:
    """Each part but the last one is complete in the eyes of SQLite, and nothing gets lost."""
    sql = " ".join(pieces)
    parts = split_statements(sql)
    position = 0
    for number, part in enumerate(parts):
        position = sql.index(part.sql, position) + len(part.sql)
        if number < len(parts) - 1:
            assert sqlite3.complete_statement(f"{part.sql};")


@pytest.mark.parametrize(
    "sql", [";" * 300_000, "SELECT 1;" * 50_000, f"{TRIGGER[:-3]}{'x;' * 150_000}"]
)
def test_split_is_linear(sql: str) -> None:
    """Long SQL is split in a time that grows with its length alone (pytest bounds it)."""
    split_statements(sql)


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "b", ""]), max_size=12))
def test_unique_names(names: list[str]) -> None:
    """Names of columns become unique, and the first of each name keeps it where it can."""
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    assert all(new.startswith(old) for new, old in zip(unique, names, strict=True))


# ---------------------------------------------------------------- outcomes


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("SQLITE_ERROR", Outcome.SQL_ERROR),
        ("SQLITE_CONSTRAINT_UNIQUE", Outcome.SQL_ERROR),
        ("SQLITE_CORRUPT_VTAB", Outcome.SQL_ERROR),
        ("SQLITE_TOOBIG", Outcome.SQL_ERROR),
        ("SQLITE_READONLY", Outcome.READ_ONLY),
        ("SQLITE_INTERRUPT", Outcome.TIMEOUT),
        ("SQLITE_NOMEM", Outcome.OUT_OF_MEMORY),
        ("SQLITE_IOERR_NOMEM", Outcome.OUT_OF_MEMORY),
        ("SQLITE_IOERR_READ", Outcome.FAILED),
        ("SQLITE_CORRUPT", Outcome.FAILED),
        ("SQLITE_NOTADB", Outcome.FAILED),
        ("SQLITE_CANTOPEN_ISDIR", Outcome.FAILED),
        ("SQLITE_BUSY_SNAPSHOT", Outcome.BUSY),
        ("SQLITE_FULL", Outcome.DATABASE_FULL),
        ("SQLITE_IOERR_WRITE", Outcome.DATABASE_FULL),
        ("SQLITE_IOERR_SHMSIZE", Outcome.DISK_FULL),
    ],
)
def test_outcomes(tmp_path: Path, name: str, outcome: Outcome) -> None:
    """Every kind of SQLite's errors has its outcome."""
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = getattr(sqlite3, name)
    assert outcome_of(error, str(tmp_path)) == outcome


@pytest.mark.parametrize("outcome", [one for one in Outcome if one != Outcome.DONE])
def test_every_outcome_has_an_error(outcome: Outcome) -> None:
    """Every outcome becomes an error with a full sentence, also without details."""
    for head in ({"outcome": outcome}, {"outcome": outcome, "details": "d", "reason": "r"}):
        assert error_of(head, D1Limits(), 1024**3).message.endswith(".")


# ---------------------------------------------------------------- replies


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        ({}, b""),
        ({"results": 1}, b""),
        ({"results": [{}], "size": 1}, b""),
        ({"results": [], "size": 1}, b"x"),
        ({"results": [{"length": 5}], "size": 1}, b"[]"),
    ],
)
def test_senseless_replies(head: dict[str, Any], rows: bytes) -> None:
    """A reply that does not fit together is an error of the store."""
    with pytest.raises(StorageFailed):
        results_of(Reply(head, rows))


HEAD = json.dumps({"outcome": "done"}).encode()


@pytest.mark.parametrize(
    "data",
    [
        REPLY_LENGTHS.pack(2**32 - 1, 0),
        REPLY_LENGTHS.pack(10, 2**31),
        frame_reply(b"no JSON", b""),
        frame_reply(b"[]", b""),
        frame_reply(b"\xff", b""),
        frame_reply(b'{"a":' * 10_000, b""),
        frame_reply(b"[" * 10_000, b""),
        frame_reply(HEAD, b"[]") + b"more",
        frame_reply(HEAD, b"[]")[:-1],
        b"",
    ],
    ids=range(10),
)
async def test_broken_frames(data: bytes) -> None:
    """A worker that breaks the protocol, or closes its socket, is ended."""
    code = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.recv(100); "
        "s.sendall(bytes.fromhex(sys.argv[2]))"
    )
    worker = await stand_in(code, data.hex())
    with pytest.raises(WorkerEnded):
        await worker.send(b"{}")
    await worker.aclose()
    assert not Path(f"/proc/{worker.pid}").exists()


async def test_frame_in_pieces() -> None:
    """A reply may come in pieces of any size."""
    code = (
        "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1])); s.recv(100)\n"
        "for n in bytes.fromhex(sys.argv[2]): s.sendall(bytes([n])); time.sleep(0.001)\n"
        "s.recv(1)"
    )
    worker = await stand_in(code, frame_reply(HEAD, b"[1]").hex())
    reply = await worker.send(b"{}")
    assert (reply.head, reply.rows) == ({"outcome": "done"}, b"[1]")
    await worker.aclose()
    with pytest.raises(WorkerEnded):
        await worker.send(b"{}")


async def stand_in(code: str, argument: str) -> WorkerProcess:
    """Starts another program in the place of a worker, which takes the socket and an argument."""
    import socket

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, str(theirs.fileno()), argument],
            pass_fds=(theirs.fileno(),),
        )
    worker = WorkerProcess(popen, 1000)
    await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
    return worker


# ---------------------------------------------------------------- counters


def test_recent_names() -> None:
    """Names are forgotten after their time."""
    names = RecentNames(1000)
    names.add("a")
    assert names.has("a") and not names.has("b")
    short = RecentNames(-1)
    short.add("a")
    assert not short.has("a")


async def test_replace_tables(tmp_path: Path) -> None:
    """Rows of tables keep their time of creation, and change theirs only with the table."""
    database = await Database.open(tmp_path / "era.db", MIGRATIONS)

    async def rows() -> dict[str, tuple[str, str, int]]:
        return await database.read(
            lambda connection: {
                name: (created, updated, size)
                for name, created, updated, size in connection.execute(
                    "SELECT name, created_at, updated_at, size FROM d1_tables"
                )
            }
        )

    async def replace(*arguments: Any) -> None:
        await database.write(lambda connection: replace_tables(*arguments, connection))

    await replace("n", [("a", 10), ("b", 20)], set(), 50)
    first = await rows()
    await replace("n", [("a", 10), ("B", 20)], {"b"}, 60)
    second = await rows()
    assert second["a"] == first["a"]
    assert set(second) == {"a", "B"}
    await replace("n", [("a", 11), ("B", 20)], {"b"}, 60)
    third = await rows()
    assert third["a"][0] == first["a"][0]
    assert third["a"][1] > first["a"][1] and third["B"][1] > second["B"][1]
    quotas = StorageQuotas(server=1000, namespace=100)
    assert await database.read(lambda c: allowed_size("n", quotas, {}, c)) == 100
    assert await database.read(lambda c: allowed_size("m", quotas, {}, c)) == 100
    assert await database.read(lambda c: allowed_size("m", quotas, {"n": 980}, c)) == 20
    assert await database.read(lambda c: allowed_size("m", StorageQuotas(), {}, c)) is None
    await replace("n", [], set(), 0)
    assert await rows() == {}
    await database.aclose()

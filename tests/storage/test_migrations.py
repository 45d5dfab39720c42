"""The schema of era.db: complete, applied once, fit for the queries."""

from __future__ import annotations

from dataclasses import fields

import pytest
import sqlite_utils

from era_kernels.models import Execution, Session
from era_kernels.storage.migrations import MIGRATIONS


@pytest.fixture
def database() -> sqlite_utils.Database:
    database = sqlite_utils.Database(memory=True)
    MIGRATIONS.apply(database)
    return database


def test_applying_twice_changes_nothing(database: sqlite_utils.Database) -> None:
    """A second start finds nothing pending."""
    schema = database.schema
    MIGRATIONS.apply(database)
    assert database.schema == schema
    assert MIGRATIONS.pending(database) == []


def test_every_field_has_a_column(database: sqlite_utils.Database) -> None:
    """A field that is added to the models needs a migration; `position` is only in memory."""
    columns = set(database.table("sessions").columns_dict)
    assert columns == {field.name for field in fields(Session)}
    columns = set(database.table("executions").columns_dict)
    wanted = {field.name for field in fields(Execution)} - {"position"}
    assert columns == wanted | {"directory", "size", "idempotency_key", "body_digest"}


def test_what_may_be_long_stands_last(database: sqlite_utils.Database) -> None:
    """SQLite reads a row from its beginning: lists must not read over data or code."""
    assert list(database.table("sessions").columns_dict)[-2:] == ["metadata", "data"]
    assert list(database.table("executions").columns_dict)[-1] == "code"
    assert list(database.table("codes").columns_dict)[-1] == "code"
    assert list(database.table("kv").columns_dict)[-2:] == ["metadata", "value"]


def test_rebuilt_tables_keep_their_indexes(database: sqlite_utils.Database) -> None:
    """A step that rebuilds a table loses no index of it, one on an expression neither."""
    rows = database.query("SELECT name FROM sqlite_master WHERE tbl_name = 'sessions'")
    names = {row["name"] for row in rows}
    assert {"sessions_updated", "idx_sessions_directory", "idx_sessions_created_at"} <= names


def test_sessions_of_an_older_version_are_kept() -> None:
    """A step that rebuilds the table of sessions loses no row, and not their order."""
    database = sqlite_utils.Database(memory=True)
    MIGRATIONS.apply(database, stop_before="m003_codes_and_ttl")
    sessions = database.table("sessions")
    rest = {"language": "x", "created_at": "then", "metadata": "{}", "data": "[1]"}
    names = ["c", "a", "b"]
    sessions.insert_all({"id": name, "directory": f"{name}{name}", **rest} for name in names)
    MIGRATIONS.apply(database)
    rows = list(sessions.rows_where(order_by="created_at, rowid"))
    assert [row["id"] for row in rows] == names
    assert all(row["data"] == "[1]" for row in rows)
    assert all(row[name] is None for row in rows for name in ("ttl", "limits", "mounts"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id FROM sessions ORDER BY created_at, rowid",
        "SELECT id FROM sessions WHERE language = 'x' ORDER BY created_at, rowid",
        "UPDATE sessions SET file_count = 1 WHERE directory = 'x'",
        "SELECT id FROM executions WHERE session_id = 'x' ORDER BY created_at, rowid",
        "SELECT id FROM executions WHERE status != 'finished'",
        "SELECT id FROM executions WHERE directory = 'x' AND idempotency_key = 'k'",
        "DELETE FROM executions WHERE session_id = 'x'",
        "SELECT code FROM codes WHERE directory = 'x'",
        "SELECT id FROM links WHERE digest = x'00'",
        "SELECT id FROM links WHERE directory = 'x' ORDER BY created_at",
        "SELECT digest FROM links WHERE expires_at <= 'x' ORDER BY expires_at LIMIT 9",
        "SELECT value FROM kv WHERE namespace = 'n' AND key = 'k'",
        "SELECT min(expires_at) FROM kv WHERE expires_at IS NOT NULL",
        "SELECT rowid FROM kv WHERE expires_at <= 1 ORDER BY expires_at LIMIT 9",
        "SELECT count, size FROM storage_usage WHERE type = 'kv' AND namespace = ''",
    ],
)
def test_queries_use_an_index(database: sqlite_utils.Database, query: str) -> None:
    """No common query sorts, or scans a table without an index."""
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert all("INDEX" in step and "TEMP B-TREE" not in step for step in plan), plan

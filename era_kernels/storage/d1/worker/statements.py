"""Runs the statements of one request in one transaction."""

from __future__ import annotations

import base64
import binascii
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from era_kernels.storage.d1.worker.connections import OpenDatabase
from era_kernels.storage.d1.worker.outcomes import Outcome, RequestFailed, outcome_of
from era_kernels.storage.d1.worker.rows import RowBudget, encode_rows
from era_kernels.storage.d1.worker.sql_text import SqlPart, split_statements

Params = Sequence[Any] | Mapping[str, Any]

_CHANGING_ROWS = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"})
_CHANGING_SCHEMA = frozenset({"CREATE", "DROP", "ALTER"})
# All others count as changing it: what begins with a character that is blank for SQLite, and not
# here, must not be a way around the rules for virtual tables.
_KEEPING_SCHEMA = frozenset({
    "SELECT", "VALUES", "EXPLAIN", "PRAGMA", "REINDEX", *_CHANGING_ROWS,
})  # fmt: skip


class Result:
    """What one entry of a request did: its rows as JSON, None for no columns, and figures.

    It is no dataclass: the import of `dataclasses` would be a quarter of a worker's start.
    """

    __slots__ = (
        "changed_db", "changes", "duration", "last_row_id", "rows", "rows_read", "rows_written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rows: bytes | None = None
        self.duration = 0.0  # milliseconds
        self.changes = self.last_row_id = self.rows_read = self.rows_written = 0
        self.changed_db = False


def parse_params(params: Any) -> Params:
    """Returns parameters as SQLite takes them. Raises RequestFailed for what is no base64."""
    if params is None:
        return ()
    if isinstance(params, list):
        return [_parse_value(value) for value in params]
    return {name.lstrip(":@$"): _parse_value(value) for name, value in params.items()}


def _parse_value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return base64.b64decode(value["base64"], validate=True)
    except (binascii.Error, ValueError):  # not base64; not ASCII
        raise RequestFailed(Outcome.BAD_PARAMS, "a blob is not valid base64") from None


def parse_entry(sql: str, params: Any) -> tuple[list[SqlPart], Params]:
    """Returns the statements of one entry. Raises RequestFailed for none, or many with params."""
    parts = split_statements(sql)
    if not parts:
        raise RequestFailed(Outcome.SQL_ERROR, "the SQL holds no statement")
    if len(parts) > 1 and params:
        raise RequestFailed(
            Outcome.SQL_ERROR, "several statements cannot share parameters: use a batch"
        )
    return parts, parse_params(params)


def run_query(
    database: OpenDatabase, parts: Sequence[SqlPart], params: Params, budget: RowBudget
) -> Result:
    """Runs one statement that only reads. Raises RequestFailed."""
    if len(parts) > 1:
        raise RequestFailed(Outcome.SQL_ERROR, "a query is one statement")
    try:
        database.refresh_if_changed()
        return _run_part(database, parts[0], params, budget)
    except (sqlite3.Error, MemoryError, ValueError, OverflowError) as error:
        raise _to_failure(error, database) from error


def run_entry(
    database: OpenDatabase,
    parts: Sequence[SqlPart],
    params: Params,
    budget: RowBudget,
    check: Callable[[], None],
) -> Result:
    """Runs the statements of one entry, inside the transaction that is open. Raises RequestFailed.

    `check` raises it before one that must not run, since the change has been stopped meanwhile.
    The rows are those of the last statement that has columns; the figures are sums.
    """
    total = Result()
    try:
        for part in parts:
            check()
            if database.authorizer.shadow_tables and part.keyword != "EXPLAIN":
                _check_part(database, part, params)
            result = _run_part(database, part, params, budget)
            if part.keyword not in _KEEPING_SCHEMA:
                version = database.schema_version
                database.refresh_schema()
                has_changed = database.schema_version != version
                result.changed_db |= has_changed or part.keyword in _CHANGING_SCHEMA
            total.rows = result.rows if result.rows is not None else total.rows
            total.duration += result.duration
            total.changes += result.changes
            total.last_row_id = result.last_row_id or total.last_row_id
            total.rows_read += result.rows_read
            total.rows_written += result.rows_written
            total.changed_db = total.changed_db or result.changed_db
    except (sqlite3.Error, MemoryError, ValueError, OverflowError) as error:
        raise _to_failure(error, database) from error
    return total


def _check_part(database: OpenDatabase, part: SqlPart, params: Params) -> None:
    """Compiles a statement by the stricter rules, where virtual tables have tables of their own."""
    database.authorizer.begin(part.keyword, is_checking=True)
    database.connection.execute(f"EXPLAIN {part.sql}", params).close()


def _run_part(database: OpenDatabase, part: SqlPart, params: Params, budget: RowBudget) -> Result:
    connection, result = database.connection, Result()
    changed_before = connection.total_changes
    began = time.perf_counter()
    database.authorizer.begin(part.keyword, is_checking=False)
    cursor = connection.execute(part.sql, params)
    try:
        if cursor.description is not None:
            result.rows, result.rows_read = encode_rows(cursor, budget)
    finally:
        cursor.close()
    result.duration = (time.perf_counter() - began) * 1000
    result.rows_written = connection.total_changes - changed_before
    result.changed_db = result.rows_written > 0
    if result.changed_db and part.keyword in _CHANGING_ROWS:
        result.changes = database.own("SELECT changes()")
        if part.keyword not in ("UPDATE", "DELETE"):
            result.last_row_id = database.own("SELECT last_insert_rowid()")
    return result


def _to_failure(error: Exception, database: OpenDatabase) -> RequestFailed:
    if isinstance(error, MemoryError):
        return RequestFailed(Outcome.OUT_OF_MEMORY)
    authorizer = database.authorizer
    if authorizer.is_growth:
        return RequestFailed(Outcome.DISK_RESERVED, str(error), authorizer.refusal)
    if authorizer.refusal:
        outcome = Outcome.READ_ONLY if authorizer.is_write else Outcome.SQL_ERROR
        return RequestFailed(outcome, str(error), authorizer.refusal)
    return RequestFailed(outcome_of(error, database.directory), str(error))


def _is_taken(connection: sqlite3.Connection, name: str) -> bool:
    """Returns whether a table or view of the user hides the table of SQLite that has this name."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE lower(name) = ?", (name,))
    return found.fetchone() is not None


def table_sizes(database: OpenDatabase, max_scanned: int) -> list[tuple[str, int]]:
    """Returns the user's tables with their bytes, those of their indexes and shadows included.

    SQLite reads the whole file for that, so from `max_scanned` bytes on, and where it was built
    without `dbstat` or the user has a table of that name, the file's size is shared out.
    """
    database.own("SELECT 1")  # from here on, the worker's own rules
    connection = database.connection
    size = database.size()
    rows = connection.execute(
        "SELECT name, tbl_name, type, rootpage FROM sqlite_schema WHERE type IN ('table', 'index')"
    ).fetchall()
    shadows = database.authorizer.shadow_tables
    virtual = sorted(
        (name for name, _, kind, root in rows if kind == "table" and not root), key=len
    )
    owners: dict[str, str] = {}  # by the name of a table or an index
    for name, table, _, _ in rows:
        owner = table
        if table.lower() in shadows:
            owner = next(
                one for one in reversed(virtual) if table.lower().startswith(one.lower() + "_")
            )
        if not owner.startswith("sqlite_"):
            owners[name] = owner
    sizes = dict.fromkeys(owners.values(), 0)
    try:
        if size > max_scanned or _is_taken(connection, "dbstat"):
            raise sqlite3.OperationalError("not to be scanned")
        for name, count in connection.execute(
            "SELECT name, pgsize FROM dbstat WHERE aggregate = TRUE"
        ):
            if name in owners:
                sizes[owners[name]] += count
    except sqlite3.OperationalError:
        sizes = {name: size // len(sizes) for name in sizes}
    return list(sizes.items())

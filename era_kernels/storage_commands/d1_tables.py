"""Reads tables of D1 whole, page by page, and fills them: all rows of a file or none."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

from era_kernels.errors import EraError, SqlError, StartError, TooLarge
from era_kernels.storage_commands.d1_client import D1Client
from era_kernels.storage_commands.row_formats import Row, encode_csv, encode_line

PAGE = 1000  # rows that are read at once, fewer where they are large
MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 4 * 1024 * 1024  # of one request, about; a longer row goes alone

_TABLES = """
    SELECT name, type, sql LIKE 'CREATE VIRTUAL%' AS is_virtual FROM sqlite_schema
    WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table or a view, with the names of its columns; those of `key` name a row, in order.

    `generated` are the columns that nobody can write.
    """

    name: str
    type: str
    columns: list[str]
    key: list[str]
    generated: frozenset[str]


def list_tables(databases: D1Client, namespace: str) -> list[Table]:
    """Returns the tables and views of a database, sorted by name. Raises EraError, StartError."""
    found = databases.query(namespace, _TABLES).rows or []
    # Those in which a virtual table keeps its data begin with its name.
    hidden = tuple(f"{row['name']}_" for row in found if row["is_virtual"])
    return [
        _describe(databases, namespace, row["name"], row["type"])
        for row in found
        if not (hidden and row["name"].startswith(hidden))
    ]


def find_table(databases: D1Client, namespace: str, name: str) -> Table | None:
    """Returns a table or a view, None where there is none. Raises EraError, StartError."""
    sql = (
        "SELECT name, type FROM sqlite_schema "
        "WHERE type IN ('table', 'view') AND lower(name) = lower(?)"
    )
    rows = databases.query(namespace, sql, [name]).rows
    return _describe(databases, namespace, rows[0]["name"], rows[0]["type"]) if rows else None


def _describe(databases: D1Client, namespace: str, name: str, type_: str) -> Table:
    rows = databases.query(namespace, f"PRAGMA table_xinfo({quoted(name)})").rows or []
    shown = [row for row in rows if row["hidden"] != 1]
    key = sorted((row["pk"], row["name"]) for row in shown if row["pk"])
    generated = frozenset(row["name"] for row in shown if row["hidden"] in (2, 3))
    return Table(name, type_, [row["name"] for row in shown], [one for _, one in key], generated)


def quoted(name: str) -> str:
    """Returns a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


# ---------------------------------------------------------------- out


def read_table(databases: D1Client, namespace: str, table: Table) -> Iterator[Row]:
    """Yields all rows of a table, in the order of its keys; a view is one page.

    A row that is there all the time comes once, whatever others write meanwhile.
    """
    if table.type == "view":
        yield from databases.query(namespace, f"SELECT * FROM {quoted(table.name)}").rows or []
        return
    keys = _key_expressions(databases, namespace, table)
    names = [_unused(f"key_{number}", table.columns) for number in range(len(keys))]
    shown = ", ".join(f"{key} AS {name}" for key, name in zip(keys, names, strict=True))
    select = f"SELECT {shown}, * FROM {quoted(table.name)}"
    order = f"ORDER BY {', '.join(keys)} LIMIT"
    where = f"WHERE ({', '.join(keys)}) > ({', '.join('?' * len(keys))})"
    page, last = PAGE, list[Any]()
    while True:
        try:
            sql = f"{select} {where if last else ''} {order} {page}"
            rows = databases.query(namespace, sql, last).rows or []
        except TooLarge:
            if page == 1:
                raise
            page = max(1, page // 4)
            continue
        for row in rows:
            last = [row.pop(name) for name in names]
            yield row
        if len(rows) < page:
            return


def _key_expressions(databases: D1Client, namespace: str, table: Table) -> list[str]:
    """Returns what names a row: its number, or the primary key of a table without numbers."""
    taken = {column.lower() for column in table.columns}
    for name in ("rowid", "_rowid_", "oid"):
        if name not in taken:
            try:
                databases.query(namespace, f"SELECT {name} FROM {quoted(table.name)} LIMIT 0")
            except SqlError:
                break
            return [name]
    if not table.key:
        raise StartError(f"The rows of the table {table.name} have no key: export a query of it.")
    return [f"{quoted(name)} COLLATE BINARY" for name in table.key]


def _unused(name: str, columns: Sequence[str]) -> str:
    taken = {column.lower() for column in columns}
    while name in taken:
        name += "_"
    return name


def write_csv(target: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Writes rows as CSV under the names of the columns; returns how many."""
    count = 0
    if columns:
        target.write(encode_csv(columns))
    for row in rows:
        target.write(encode_csv(row[name] for name in columns))
        count += 1
    return count


def write_lines(target: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Writes rows as lines of JSON; returns how many."""
    count = 0
    for row in rows:
        target.write(encode_line(row))
        count += 1
    return count


# ---------------------------------------------------------------- in


def import_rows(
    databases: D1Client,
    namespace: str,
    table: str,
    read: Callable[[], Iterator[tuple[int, Row]]],
) -> int:
    """Inserts all rows or none; returns how many. A table that is missing is made.

    `read` reads the rows from the start, and is called twice. Raises EraError, StartError.
    """
    columns: dict[str, None] = {}
    total = 0
    for _, row in read():
        columns.update(dict.fromkeys(row))
        total += 1
    if total and not columns:
        raise StartError("No row has a column.")
    found = find_table(databases, namespace, table)
    first, names = _target(found, table, list(columns))
    if not total:
        return 0
    target = quoted(table)
    chunks = _chunks(row for _, row in read())
    head = next(chunks)
    if len(head) == total:
        insert = _insert(target, names)
        entries = [(insert, [row.get(name) for name in names]) for row in head]
        databases.batch(namespace, [*first, *entries])
    else:
        _import_by_steps(databases, namespace, target, names, first, chain([head], chunks))
    return total


def _import_by_steps(
    databases: D1Client,
    namespace: str,
    target: str,
    names: Sequence[str],
    first: Sequence[tuple[str, None]],
    chunks: Iterable[list[Row]],
) -> None:
    """Fills a table of its own by many requests, and moves its rows in one transaction."""
    step = quoted(f"import_{secrets.token_hex(8)}")
    columns = ", ".join(map(quoted, names))
    databases.execute(namespace, f"CREATE TABLE {step} ({columns})")
    try:
        insert = _insert(step, names)
        for chunk in chunks:
            entries = [(insert, [row.get(name) for name in names]) for row in chunk]
            databases.batch(namespace, entries)
        move = f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {step} ORDER BY rowid"
        databases.batch(namespace, [*first, (move, None), (f"DROP TABLE {step}", None)])
    except BaseException:
        with suppress(EraError, StartError):
            databases.execute(namespace, f"DROP TABLE IF EXISTS {step}")
        raise


def _target(
    found: Table | None, name: str, columns: list[str]
) -> tuple[list[tuple[str, None]], list[str]]:
    """Returns what makes the table, if it is missing, and the columns to fill."""
    if found is None:
        made = ", ".join(map(quoted, columns))
        return [(f"CREATE TABLE {quoted(name)} ({made})", None)], columns
    known = {column.lower() for column in found.columns}
    unknown = [column for column in columns if column.lower() not in known]
    if unknown:
        raise StartError(f"The table {found.name} has no column {unknown[0]!r}.")
    generated = {column.lower() for column in found.generated}
    return [], [column for column in columns if column.lower() not in generated]


def _insert(target: str, names: Sequence[str]) -> str:
    columns, marks = ", ".join(map(quoted, names)), ", ".join("?" * len(names))
    return f"INSERT INTO {target} ({columns}) VALUES ({marks})"


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yields the rows in groups that one request can hold."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        length = len(json.dumps(row))
        if chunk and (len(chunk) == MAX_BATCH_ROWS or size + length > MAX_BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += length
    if chunk:
        yield chunk

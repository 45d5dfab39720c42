"""Lists and counts everything that is stored: keys, tables, objects and sessions."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from era_kernels.models import JsonObject, ResourceType
from era_kernels.storage.database import Database
from era_kernels.storage.key_ranges import prefix_end
from era_kernels.storage.sql_values import time_from_text

SESSIONS_NAMESPACE = "sessions"  # of the items that are sessions


@dataclass(frozen=True, slots=True)
class StoredItem:
    """A key of KV, a table of D1, an object of R2 or a session; `size` is in bytes."""

    type: ResourceType
    namespace: str
    key: str
    created_at: datetime
    updated_at: datetime
    size: int
    metadata: JsonObject


@dataclass(frozen=True, slots=True)
class StoredItemFilter:
    """Selects items; None selects all."""

    type: ResourceType | None = None
    namespace: str | None = None
    key_prefix: str = ""

    @property
    def tables(self) -> Sequence[_Table]:
        """The tables in which something can be found."""
        return [
            table
            for table in _TABLES
            if self.type in (None, table.type)
            and (table.has_namespaces or self.namespace in (None, SESSIONS_NAMESPACE))
        ]


@dataclass(frozen=True, slots=True)
class StoredItemTotals:
    """How many items there are, by type and by namespace, and the bytes of all together."""

    by_type: Mapping[ResourceType, int]
    by_namespace: Mapping[str, int]
    total_size: int

    @property
    def total(self) -> int:
        """The number of all items."""
        return sum(self.by_type.values())


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose rows are items: its expressions for their fields, its indexes.

    `prefix_index` finds keys by their beginning in one namespace, or in the table that has no
    namespaces. `all_prefix_index` finds them in all namespaces; None: a namespace at a time.
    """

    type: ResourceType
    name: str
    key: str
    prefix_index: str
    updated_index: str
    namespace_updated_index: str = ""
    all_prefix_index: str | None = None
    updated_at: str = "updated_at"
    size: str = "size"
    metadata: str = "NULL"
    condition: str = "true"

    @property
    def has_namespaces(self) -> bool:
        return self.type is not ResourceType.DO

    @property
    def columns(self) -> str:
        namespace = f"{self.name}.namespace" if self.has_namespaces else f"'{SESSIONS_NAMESPACE}'"
        return (
            f"'{self.type}' AS type, {namespace} AS namespace, {self.key} AS key, created_at, "
            f"{self.updated_at} AS updated_at, {self.size} AS size, {self.metadata} AS metadata, "
            f"{self.name}.rowid AS position"
        )

    def source(self, wanted: StoredItemFilter) -> str:
        """Returns the FROM and WHERE of a query for the wanted rows, which all use an index."""
        conditions = [self.condition]
        of_namespace = self.has_namespaces and wanted.namespace is not None
        if of_namespace:
            conditions.append("namespace = :namespace")
        if not wanted.key_prefix:
            index = self.namespace_updated_index if of_namespace else self.updated_index
            return f"{self.name} INDEXED BY {index} WHERE {' AND '.join(conditions)}"
        conditions.append(f"{self.key} >= :prefix")
        if prefix_end(wanted.key_prefix) is not None:
            conditions.append(f"{self.key} < :prefix_end")
        where = " AND ".join(conditions)
        if of_namespace or not self.has_namespaces:
            return f"{self.name} INDEXED BY {self.prefix_index} WHERE {where}"
        if self.all_prefix_index is not None:
            return f"{self.name} INDEXED BY {self.all_prefix_index} WHERE {where}"
        return (
            f"storage_usage AS used CROSS JOIN {self.name} INDEXED BY {self.prefix_index} "
            f"ON {self.name}.namespace = used.namespace "
            f"WHERE used.type = '{self.type}' AND used.namespace > '' AND {where}"
        )


_TABLES = (
    _Table(
        ResourceType.KV,
        "kv",
        key="key",
        prefix_index="kv_keys",
        updated_index="kv_updated",
        namespace_updated_index="kv_namespace_updated",
        size="kv.size",
        metadata="metadata",
        condition="(expires_at IS NULL OR expires_at > :now)",
    ),
    _Table(
        ResourceType.D1,
        "d1_tables",
        key="name",
        prefix_index="sqlite_autoindex_d1_tables_1",
        updated_index="d1_tables_updated",
        namespace_updated_index="d1_tables_namespace_updated",
        all_prefix_index="d1_tables_names",
    ),
    _Table(
        ResourceType.R2,
        "r2_objects",
        key="key",
        prefix_index="sqlite_autoindex_r2_objects_1",
        updated_index="idx_r2_objects_updated_at",
        namespace_updated_index="r2_namespace_updated",
        size="r2_objects.size",
        metadata="custom_metadata",
    ),
    _Table(
        ResourceType.DO,
        "sessions",
        key="id",
        prefix_index="sqlite_autoindex_sessions_1",
        updated_index="sessions_updated",
        updated_at="coalesce(last_run_at, created_at)",
        size="coalesce(total_size, 0)",
        metadata="metadata",
    ),
)


class StoredItemIndex:
    """Reads what the stores and the sessions have written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_items(
        self, wanted: StoredItemFilter, limit: int, offset: int
    ) -> tuple[Iterator[StoredItem], int]:
        """Lists items, newest update first; counts all that are wanted.

        Each item is made from its row when it is iterated.
        """
        await self._database.flush()
        rows, total = await self._database.read(partial(_list, wanted, limit, offset))
        return map(_from_row, rows), total

    async def totals(self) -> StoredItemTotals:
        """Counts all items."""
        await self._database.flush()
        return await self._database.read(_totals)


def _from_row(row: tuple[Any, ...]) -> StoredItem:
    type_, namespace, key, created_at, updated_at, size, metadata, _ = row
    created, updated = time_from_text(created_at), time_from_text(updated_at)
    assert created is not None and updated is not None
    shown = {} if metadata is None else json.loads(metadata)
    return StoredItem(ResourceType(type_), namespace, key, created, updated, size, shown)


# ---------------------------------------------------------------- in the database's threads


def list_query(wanted: StoredItemFilter) -> str:
    """Returns the query for a page of resources; the filter must leave a table over."""
    parts = [f"SELECT {table.columns} FROM {table.source(wanted)}" for table in wanted.tables]
    order = "ORDER BY updated_at DESC, position DESC LIMIT :limit OFFSET :offset"
    return f"{' UNION ALL '.join(parts)} {order}"


def count_query(table: _Table, wanted: StoredItemFilter) -> str:
    """Returns the query for the number of wanted rows of a table."""
    return f"SELECT count(*) FROM {table.source(wanted)}"


def _list(
    wanted: StoredItemFilter, limit: int, offset: int, connection: sqlite3.Connection
) -> tuple[list[tuple[Any, ...]], int]:
    if not wanted.tables:
        return [], 0
    values = {
        "namespace": wanted.namespace,
        "prefix": wanted.key_prefix,
        "prefix_end": prefix_end(wanted.key_prefix),
        "now": time.time(),
    }
    total = sum(_count(table, wanted, values, connection) for table in wanted.tables)
    if offset >= total:
        return [], total
    rows = connection.execute(list_query(wanted), {**values, "limit": limit, "offset": offset})
    return rows.fetchall(), total


def _count(
    table: _Table,
    wanted: StoredItemFilter,
    values: Mapping[str, Any],
    connection: sqlite3.Connection,
) -> int:
    """Counts the wanted rows of a table, by the counters where these know it."""
    if table.type in (ResourceType.D1, ResourceType.DO) or wanted.key_prefix:
        count: int = connection.execute(count_query(table, wanted), values).fetchone()[0]
        return count
    counted = connection.execute(
        "SELECT count FROM storage_usage WHERE type = ? AND namespace = ?",
        (table.type, wanted.namespace or ""),
    ).fetchone()
    count = counted[0] if counted else 0
    if table.type is ResourceType.KV:
        expired = _expired(connection)
        names = expired if wanted.namespace is None else expired.keys() & {wanted.namespace}
        count -= sum(expired[name][0] for name in names)
    return count


def _totals(connection: sqlite3.Connection) -> StoredItemTotals:
    by_type = dict.fromkeys(ResourceType, 0)
    by_namespace: dict[str, int] = {}
    total_size = 0
    for type_, namespace, count, size in _counts(connection):
        by_type[ResourceType(type_)] += count
        by_namespace[namespace] = by_namespace.get(namespace, 0) + count
        total_size += size
    shown = {namespace: count for namespace, count in sorted(by_namespace.items()) if count}
    return StoredItemTotals(by_type, shown, total_size)


def _counts(connection: sqlite3.Connection) -> Iterator[tuple[str, str, int, int]]:
    """Yields numbers and bytes of items by type and namespace; some take others back."""
    yield from connection.execute(
        """
        SELECT type, namespace, count, size FROM storage_usage
        WHERE type IN ('kv', 'r2') AND namespace > ''
        """
    )
    for namespace, (count, size) in _expired(connection).items():
        yield ResourceType.KV, namespace, -count, -size
    yield from connection.execute(
        "SELECT 'd1', namespace, count(*), sum(size) FROM d1_tables GROUP BY namespace"
    )
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(total_size), 0) FROM sessions"
    ).fetchone()
    yield ResourceType.DO, SESSIONS_NAMESPACE, count, size


def _expired(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Returns numbers and bytes of expired keys, which are still counted, by namespace."""
    rows = connection.execute(
        """
        SELECT namespace, count(*), sum(size) FROM kv INDEXED BY kv_expiring
        WHERE expires_at <= ? GROUP BY namespace
        """,
        (time.time(),),
    )
    return {namespace: (count, size) for namespace, count, size in rows}

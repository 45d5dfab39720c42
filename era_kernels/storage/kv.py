"""Stores KV: texts by key, in namespaces, each with metadata and perhaps an end of its life."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from era_kernels import json_codec
from era_kernels.concurrency.batched_calls import BatchedCalls
from era_kernels.errors import KeyNotFound, QuotaExceeded, TooLarge
from era_kernels.json_incremental import LARGE_BYTES, estimate_size
from era_kernels.models import JsonObject, ResourceType, StorageQuotas, format_size, now
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.key_ranges import cursor_from_key, key_from_cursor, prefix_end
from era_kernels.storage.kv_expiry import ExpirySweeper, delete_expired
from era_kernels.storage.sql_values import time_to_text
from era_kernels.storage.storage_usage import count_change

MAX_KEY_BYTES = 512
MAX_METADATA_BYTES = 1024  # of its JSON, compact and in UTF-8

_IS_ALIVE = "(expires_at IS NULL OR expires_at > :now)"


@dataclass(frozen=True, slots=True)
class KVEntry:
    """A value with its metadata, and when it expires, in seconds of Unix time; None is never."""

    value: str
    metadata: JsonObject
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class KVKey:
    """A key in a list, with its metadata."""

    name: str
    metadata: JsonObject


@dataclass(frozen=True, slots=True)
class KVPage:
    """A page of a list; `cursor` asks for the next one, and is empty at the end."""

    keys: Sequence[KVKey] = field(default_factory=list)
    cursor: str = ""


class _Row(NamedTuple):
    """What a put writes, `expires_at` in seconds of Unix time, `size` in bytes."""

    namespace: str
    key: str
    value: str
    metadata: str | None
    size: int
    expires_at: float | None

    @property
    def overhead(self) -> int:
        """The bytes beside the value."""
        return len(self.key.encode()) + len((self.metadata or "").encode())


class KVStore:
    """Reads and writes KV. Keys are any text but the empty one, compared as UTF-8 bytes.

    Of an expired key nothing is seen from its very second on.
    """

    def __init__(
        self,
        database: Database,
        quotas: StorageQuotas,
        max_value: int,
        check_room: Callable[[], None] = always_room,
    ) -> None:
        """`max_value` is the number of bytes that a value may have.

        `check_room` raises InsufficientStorage when nothing new is to be stored.
        """
        self._check_room = check_room
        self.max_value = max_value
        self._database = database
        self._quotas = quotas
        self._sweeper = ExpirySweeper(database)
        self._gets = BatchedCalls(self._get_all)
        self._puts = BatchedCalls(self._put_all)

    async def open(self) -> None:
        """Begins to delete expired keys in the background. Raises StorageFailed."""
        await self._sweeper.open()

    async def get(self, namespace: str, key: str) -> KVEntry:
        """Returns the entry of a key. Raises KeyNotFound, TooLarge."""
        _check_key(key)
        entry = await self._gets.call((namespace, key))
        if entry is None:
            raise KeyNotFound(f"There is no such key in the namespace {namespace}.")
        return entry

    async def put(
        self,
        namespace: str,
        key: str,
        value: str,
        metadata: JsonObject | None = None,
        expiration_ttl: float | None = None,
    ) -> None:
        """Replaces value, metadata and expiry of a key, durably; it expires after so many seconds.

        Raises TooLarge, QuotaExceeded, InsufficientStorage.
        """
        _check_key(key)
        size = len(value) if value.isascii() else len(value.encode())
        if size > self.max_value:
            raise TooLarge(
                f"The value has {format_size(size)}, and {format_size(self.max_value)} are allowed "
                "(max_kv_value)."
            )
        self._check_room()
        metadata_text = _metadata_to_text(metadata)
        expires_at = None if expiration_ttl is None else time.time() + expiration_ttl
        row = _Row(namespace, key, value, metadata_text, size, expires_at)
        await self._puts.call(row)
        self._sweeper.expect(expires_at)

    async def delete(self, namespace: str, key: str) -> None:
        """Deletes a key, durably; a missing one is fine. Raises TooLarge."""
        _check_key(key)
        await self._database.write(partial(_delete, namespace, key))

    async def list_keys(
        self, namespace: str, prefix: str = "", limit: int = 100, cursor: str = ""
    ) -> KVPage:
        """Lists at most `limit` keys that begin with `prefix`, in order, after those of a cursor.

        Keys that come or go between two pages change neither the order nor any other key. Raises
        InvalidRequest for a text that is no cursor.
        """
        after = key_from_cursor(cursor) if cursor else None
        return await self._database.read(partial(_list, namespace, prefix, limit, after))

    async def aclose(self) -> None:
        """Ends the work in the background; a second call is fine."""
        await self._sweeper.aclose()

    async def _get_all(self, keys: Sequence[tuple[str, str]]) -> list[KVEntry | None]:
        return await self._database.read(partial(_find_all, keys))

    async def _put_all(self, rows: Sequence[_Row]) -> list[QuotaExceeded | None]:
        return await self._database.write(partial(_put_all, rows, self._quotas))


def _check_key(key: str) -> None:
    size = len(key) if key.isascii() else len(key.encode())
    if size > MAX_KEY_BYTES:
        raise TooLarge(f"The key has {size} bytes, and {MAX_KEY_BYTES} are allowed.")


def _metadata_to_text(metadata: JsonObject | None) -> str | None:
    """Returns metadata as it is stored: compact JSON, None for none. Raises TooLarge."""
    if not metadata:
        return None
    if estimate_size(metadata) > LARGE_BYTES:
        raise TooLarge(
            f"The metadata is too large: {MAX_METADATA_BYTES} bytes as JSON are allowed."
        )
    data = json_codec.dumps(metadata)
    if len(data) > MAX_METADATA_BYTES:
        raise TooLarge(
            f"The metadata has {len(data)} bytes as JSON, and {MAX_METADATA_BYTES} are allowed."
        )
    return data.decode()


def _metadata_from_text(text: str | None) -> JsonObject:
    metadata: JsonObject = {} if text is None else json.loads(text)
    return metadata


# ---------------------------------------------------------------- in the database's threads


def _find_all(
    keys: Sequence[tuple[str, str]], connection: sqlite3.Connection
) -> list[KVEntry | None]:
    present = time.time()
    return [_find(namespace, key, present, connection) for namespace, key in keys]


def _find(
    namespace: str, key: str, present: float, connection: sqlite3.Connection
) -> KVEntry | None:
    row = connection.execute(
        "SELECT value, metadata, expires_at FROM kv WHERE namespace = ? AND key = ?",
        (namespace, key),
    ).fetchone()
    if row is None or (row[2] is not None and row[2] <= present):
        return None
    return KVEntry(row[0], _metadata_from_text(row[1]), row[2])


def _put_all(
    rows: Sequence[_Row], quotas: StorageQuotas, connection: sqlite3.Connection
) -> list[QuotaExceeded | None]:
    """Puts rows in their order; returns the error for each that would go past a quota."""
    results: list[QuotaExceeded | None] = []
    for row in rows:
        try:
            _put(row, quotas, connection)
            results.append(None)
        except QuotaExceeded as error:
            results.append(error)
    return results


def _put(row: _Row, quotas: StorageQuotas, connection: sqlite3.Connection) -> None:
    while True:
        try:
            _count_put(row, quotas, connection)
            break
        except QuotaExceeded:
            # What nobody sees any more must not be in the way.
            if not delete_expired(connection):
                raise
    connection.execute(
        f"""
        INSERT INTO kv (namespace, key, created_at, updated_at, size, expires_at, metadata, value)
        VALUES (:namespace, :key, :time, :time, :size, :expires_at, :metadata, :value)
        ON CONFLICT (namespace, key) DO UPDATE SET
            created_at = CASE WHEN {_IS_ALIVE} THEN created_at ELSE excluded.created_at END,
            updated_at = excluded.updated_at,
            size = excluded.size,
            expires_at = excluded.expires_at,
            metadata = excluded.metadata,
            value = excluded.value
        """,
        {**row._asdict(), "time": time_to_text(now()), "now": time.time()},
    )


def _count_put(row: _Row, quotas: StorageQuotas, connection: sqlite3.Connection) -> None:
    count, size, overhead = 1, row.size, row.overhead
    old = _stored_sizes(row.namespace, row.key, connection)
    if old is not None:
        count, size, overhead = 0, size - old[0], overhead - old[1]
        if size == overhead == 0:
            return
    count_change(
        connection, quotas, ResourceType.KV, row.namespace,
        count=count, size=size, overhead=overhead,
    )  # fmt: skip


def _delete(namespace: str, key: str, connection: sqlite3.Connection) -> None:
    old = _stored_sizes(namespace, key, connection)
    if old is None:
        return
    connection.execute("DELETE FROM kv WHERE namespace = ? AND key = ?", (namespace, key))
    count_change(
        connection, StorageQuotas(), ResourceType.KV, namespace,
        count=-1, size=-old[0], overhead=-old[1],
    )  # fmt: skip


def _stored_sizes(
    namespace: str, key: str, connection: sqlite3.Connection
) -> tuple[int, int] | None:
    """Returns the bytes of a stored value, and those beside it; also of an expired one."""
    found: tuple[int, int] | None = connection.execute(
        """
        SELECT size, length(CAST(key || coalesce(metadata, '') AS BLOB)) FROM kv
        WHERE namespace = ? AND key = ?
        """,
        (namespace, key),
    ).fetchone()
    return found


def list_query(*, is_after: bool, has_end: bool) -> str:
    """Returns the query for a page of keys from `:start` on (or after it), up to `:end`."""
    start, end = ("key > :start" if is_after else "key >= :start"), "AND key < :end" * has_end
    return (
        "SELECT key, metadata FROM kv INDEXED BY kv_list "
        f"WHERE namespace = :namespace AND {start} {end} AND {_IS_ALIVE} "
        "ORDER BY key LIMIT :limit"
    )


def _list(
    namespace: str, prefix: str, limit: int, after: str | None, connection: sqlite3.Connection
) -> KVPage:
    """Lists a page of keys: those that begin with `prefix`, and come after `after`."""
    values: dict[str, Any] = {"namespace": namespace, "now": time.time(), "limit": limit + 1}
    end = prefix_end(prefix)
    rows = connection.execute(
        list_query(is_after=after is not None and after >= prefix, has_end=end is not None),
        {**values, "start": prefix if after is None else max(prefix, after), "end": end},
    ).fetchall()
    keys = [KVKey(name, _metadata_from_text(text)) for name, text in rows[:limit]]
    return KVPage(keys, cursor_from_key(keys[-1].name) if len(rows) > limit else "")

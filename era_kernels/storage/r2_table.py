"""Reads and writes the rows of R2's objects, with functions for the database's threads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from era_kernels.models import ResourceType, StorageQuotas
from era_kernels.storage import content_types, pending_removals
from era_kernels.storage.key_ranges import prefix_end
from era_kernels.storage.open_file import FileStatus
from era_kernels.storage.sql_values import json_to_text, time_from_text, time_to_text
from era_kernels.storage.storage_usage import check_quotas, count_change

_COLUMNS = "key, blob, size, etag, content_type, custom_metadata, created_at, updated_at"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object without its bytes, which lie in the file `blob`.

    `size` in bytes; `etag` is the MD5 in hexadecimal digits; `content_type` may be empty.
    """

    key: str
    blob: str
    size: int
    etag: str
    content_type: str
    custom_metadata: Mapping[str, str]
    created_at: datetime
    updated_at: datetime

    @property
    def overhead(self) -> int:
        """The bytes beside the content, which take room in the database."""
        metadata = json_to_text(self.custom_metadata) if self.custom_metadata else ""
        return len(self.key.encode()) + len(self.content_type) + len(metadata)

    @property
    def status(self) -> FileStatus:
        """The object as a file."""
        return FileStatus(
            size=self.size,
            modified_at=self.updated_at.replace(microsecond=0),
            etag=f'"{self.etag}"',
            content_type=self.content_type or content_types.DEFAULT,
        )


# Raises when the object as it is now (None: there is none) must not be changed.
Precondition = Callable[[StoredObject | None], None]


def unconditional(found: StoredObject | None) -> None:
    """Accepts every state of the object: the change is unconditional."""


def find(namespace: str, key: str, connection: sqlite3.Connection) -> StoredObject | None:
    """Returns an object, None where there is none."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM r2_objects WHERE namespace = ? AND key = ?", (namespace, key)
    ).fetchone()
    return None if row is None else _from_row(row)


def select(
    namespace: str, prefix: str, limit: int, after: str | None, connection: sqlite3.Connection
) -> list[StoredObject]:
    """Returns at most `limit` objects whose keys have the prefix and come after a key, sorted."""
    # No text lies between a key and the same key with a NUL behind it.
    first, end = prefix if after is None else max(prefix, f"{after}\0"), prefix_end(prefix)
    upper, values = ("", ()) if end is None else ("AND key < ?", (end,))
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM r2_objects WHERE namespace = ? AND key >= ? {upper} "
        "ORDER BY key LIMIT ?",
        (namespace, first, *values, limit),
    )
    return [_from_row(row) for row in rows]


def check_change(
    namespace: str,
    key: str,
    size: int,
    quotas: StorageQuotas,
    precondition: Precondition,
    connection: sqlite3.Connection,
) -> None:
    """Raises what a put of so many bytes would raise now, whatever its metadata."""
    old = find(namespace, key, connection)
    precondition(old)
    growth = size + len(key.encode()) - (0 if old is None else old.size + old.overhead)
    if growth > 0:
        check_quotas(connection, quotas, namespace, growth)


def put(
    namespace: str,
    new: StoredObject,
    quotas: StorageQuotas,
    precondition: Precondition,
    connection: sqlite3.Connection,
) -> StoredObject | None:
    """Inserts or replaces an object, which keeps its time of creation; returns the old one.

    The blob of the old one is noted as deleted.
    """
    old = find(namespace, new.key, connection)
    precondition(old)
    count, size, overhead = 1, new.size, new.overhead
    if old is not None:
        count, size, overhead = 0, size - old.size, overhead - old.overhead
    count_change(
        connection, quotas, ResourceType.R2, namespace, count=count, size=size, overhead=overhead
    )
    if old is not None:
        pending_removals.insert(pending_removals.BLOB, [old.blob], connection)
    connection.execute(
        f"""
        INSERT INTO r2_objects (namespace, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (namespace, key) DO UPDATE SET
            blob = excluded.blob,
            size = excluded.size,
            etag = excluded.etag,
            content_type = excluded.content_type,
            custom_metadata = excluded.custom_metadata,
            updated_at = excluded.updated_at
        """,
        (
            namespace,
            new.key,
            new.blob,
            new.size,
            new.etag,
            new.content_type,
            json_to_text(new.custom_metadata),
            time_to_text(new.created_at),
            time_to_text(new.updated_at),
        ),
    )
    return old


def delete(
    namespace: str,
    key: str,
    quotas: StorageQuotas,
    precondition: Precondition,
    connection: sqlite3.Connection,
) -> StoredObject | None:
    """Deletes an object and returns it, None where there is none; notes its blob as deleted."""
    old = find(namespace, key, connection)
    precondition(old)
    if old is not None:
        count_change(
            connection, quotas, ResourceType.R2, namespace,
            count=-1, size=-old.size, overhead=-old.overhead,
        )  # fmt: skip
        connection.execute(
            "DELETE FROM r2_objects WHERE namespace = ? AND key = ?", (namespace, key)
        )
        pending_removals.insert(pending_removals.BLOB, [old.blob], connection)
    return old


def blobs_in(folder: str, connection: sqlite3.Connection) -> set[str]:
    """Returns the blobs of all objects whose names begin with two digits."""
    rows = connection.execute(
        "SELECT blob FROM r2_objects WHERE blob >= ? AND blob < ?", (folder, f"{folder}g")
    )
    return {blob for (blob,) in rows}


def _from_row(row: tuple[Any, ...]) -> StoredObject:
    created_at, updated_at = time_from_text(row[6]), time_from_text(row[7])
    assert created_at is not None
    assert updated_at is not None
    return StoredObject(
        key=row[0],
        blob=row[1],
        size=row[2],
        etag=row[3],
        content_type=row[4] or "",
        custom_metadata=json.loads(row[5]),
        created_at=created_at,
        updated_at=updated_at,
    )

"""Keeps the index of D1's tables in era.db, with the counters of what D1 stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from era_kernels.models import ResourceType, StorageQuotas, now
from era_kernels.storage.sql_values import time_to_text
from era_kernels.storage.storage_usage import count_change, used_bytes

_NO_QUOTAS = StorageQuotas()  # what is counted here is on the disk already


def replace_tables(
    namespace: str,
    tables: Sequence[tuple[str, int]],
    changed: Collection[str],
    size: int,
    connection: sqlite3.Connection,
) -> None:
    """Replaces the rows of a namespace by these tables and their bytes; counts tables and `size`.

    Tables that are new, have another size or are among `changed` (in lower case) are updated now.
    """
    time = time_to_text(now())
    known = dict(
        connection.execute(
            "SELECT name, size FROM d1_tables WHERE namespace = ?", (namespace,)
        ).fetchall()
    )
    connection.executemany(
        "DELETE FROM d1_tables WHERE namespace = ? AND name = ?",
        [(namespace, name) for name in known.keys() - dict(tables).keys()],
    )
    connection.executemany(
        """
        INSERT INTO d1_tables (namespace, name, created_at, updated_at, size)
        VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET updated_at = excluded.updated_at, size = excluded.size
        """,
        [
            (namespace, name, time, time, table_size)
            for name, table_size in tables
            if known.get(name) != table_size or name.lower() in changed
        ],
    )
    _count(len(tables), namespace, size, connection)


def count_size(namespace: str, size: int, connection: sqlite3.Connection) -> None:
    """Counts the bytes of a database whose tables could not be looked at."""
    _count(_counted(namespace, connection)[0], namespace, size, connection)


def _count(count: int, namespace: str, size: int, connection: sqlite3.Connection) -> None:
    old_count, old_size = _counted(namespace, connection)
    if (old_count, old_size) != (count, size):
        count_change(
            connection,
            _NO_QUOTAS,
            ResourceType.D1,
            namespace,
            count=count - old_count,
            size=size - old_size,
        )


def allowed_size(
    namespace: str,
    quotas: StorageQuotas,
    real_sizes: Mapping[str, int],
    connection: sqlite3.Connection,
) -> int | None:
    """Returns to how many bytes the database of a namespace may grow; None means no bound.

    `real_sizes` are the sizes of databases that changed since they were counted.
    """
    differences = {name: size - _counted(name, connection)[1] for name, size in real_sizes.items()}
    own_size = _counted(namespace, connection)[1] + differences.get(namespace, 0)
    bounds = []
    if quotas.namespace is not None:
        used = used_bytes(connection, namespace) + differences.get(namespace, 0)
        bounds.append(own_size + quotas.namespace - used)
    if quotas.server is not None:
        used = used_bytes(connection) + sum(differences.values())
        bounds.append(own_size + quotas.server - used)
    return max(0, min(bounds)) if bounds else None


def counted_sizes(connection: sqlite3.Connection) -> dict[str, int]:
    """Returns the bytes of the databases of all namespaces, as they are counted."""
    return dict(
        connection.execute(
            "SELECT namespace, size FROM storage_usage WHERE type = 'd1' AND namespace != ''"
        ).fetchall()
    )


def _counted(namespace: str, connection: sqlite3.Connection) -> tuple[int, int]:
    row = connection.execute(
        "SELECT count, size FROM storage_usage WHERE type = 'd1' AND namespace = ?", (namespace,)
    ).fetchone()
    return row or (0, 0)

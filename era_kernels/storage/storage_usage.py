"""Counts what KV, D1 and R2 hold, and refuses what would go past a quota.

The counters change in the transactions of the writes that they count, so they are always right.
"""

from __future__ import annotations

import sqlite3

from era_kernels.errors import QuotaExceeded
from era_kernels.models import ResourceType, StorageQuotas, format_size

_ALL = ""  # the namespace of the rows that count all namespaces of a type; no real one is empty


def count_change(
    connection: sqlite3.Connection,
    quotas: StorageQuotas,
    type_: ResourceType,
    namespace: str,
    *,
    count: int = 0,
    size: int = 0,
    overhead: int = 0,
) -> None:
    """Adds to the number of entries and to the bytes of a namespace; all may be negative.

    `overhead` is what entries take beside their sizes, such as keys and metadata: it counts for
    the quotas, but is no part of the sizes that callers see.

    Raises QuotaExceeded, with the figures, when more bytes are not allowed: the caller's function
    of the transaction must let it through, which undoes its changes.
    """
    if size + overhead > 0:
        check_quotas(connection, quotas, namespace, size + overhead)
    connection.executemany(
        """
        INSERT INTO storage_usage (type, namespace, count, size, overhead) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET count = count + excluded.count, size = size + excluded.size,
            overhead = overhead + excluded.overhead
        """,
        [(type_, name, count, size, overhead) for name in (namespace, _ALL)],
    )
    if count < 0 or size < 0:
        connection.execute(
            "DELETE FROM storage_usage WHERE type = ? AND namespace = ? AND count = 0 AND size = 0",
            (type_, namespace),
        )


def check_quotas(
    connection: sqlite3.Connection, quotas: StorageQuotas, namespace: str, size: int
) -> None:
    """Raises QuotaExceeded when `size` more bytes in the namespace would go past a quota."""
    for name, quota, where, counted in (
        ("namespace_quota", quotas.namespace, f"The namespace {namespace}", namespace),
        ("storage_quota", quotas.server, "The storage of this server", _ALL),
    ):
        if quota is None:
            continue
        used = used_bytes(connection, counted)
        if used + size > quota:
            raise QuotaExceeded(
                f"{where} holds {format_size(used)}, and {format_size(size)} more would go past "
                f"its {format_size(quota)} ({name}).",
                details={"quota": quota, "used": used, "requested": size},
                hint="Delete something, or let the server's operator raise the setting.",
            )


def used_bytes(connection: sqlite3.Connection, namespace: str = _ALL) -> int:
    """Returns the bytes that KV, D1 and R2 hold together, in one namespace or in all."""
    rows = connection.execute(
        """
        SELECT size + overhead FROM storage_usage
        WHERE type IN ('kv', 'd1', 'r2') AND namespace = ?
        """,
        (namespace,),
    ).fetchall()
    return sum(size for (size,) in rows)

"""Remembers what is to be removed from the disk, in the transaction that deletes its row.

So a start knows what a killed server was asked to remove, and takes nothing else for garbage. The
names are random, and never given twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import partial

from era_kernels.storage.database import Database

SESSION, BLOB = "session", "blob"  # kinds of what has a name: a session's directory, a blob
MAX_REMOVED = 1000  # names that are forgotten together, at the latest


class PendingRemovals:
    """Reads the names of one kind, and forgets those that were removed."""

    def __init__(self, database: Database, kind: str) -> None:
        self._database = database
        self._kind = kind
        self._removed: set[str] = set()

    async def names(self) -> set[str]:
        """Returns the names of all that may still have to be removed. Raises StorageFailed."""
        return await self._database.read(partial(select, self._kind))

    def forget_soon(self, names: Iterable[str]) -> None:
        """Forgets what was removed, not at once: a name that stays for longer does no harm."""
        self._removed.update(names)
        if len(self._removed) >= MAX_REMOVED:
            removed, self._removed = self._removed, set()
            self._database.write_soon(partial(_delete, self._kind, removed))


def insert(kind: str, names: Iterable[str], connection: sqlite3.Connection) -> None:
    """Notes, within a transaction, what is to be removed after it."""
    connection.executemany(
        "INSERT INTO deletions (kind, name) VALUES (?, ?) ON CONFLICT DO NOTHING",
        ((kind, name) for name in names),
    )


def select(kind: str, connection: sqlite3.Connection) -> set[str]:
    """Returns all names of a kind."""
    return {
        name for (name,) in connection.execute("SELECT name FROM deletions WHERE kind = ?", (kind,))
    }


def _delete(kind: str, names: Iterable[str], connection: sqlite3.Connection) -> None:
    connection.executemany(
        "DELETE FROM deletions WHERE kind = ? AND name = ?", ((kind, name) for name in names)
    )

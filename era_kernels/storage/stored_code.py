"""Stored code: at most one program per session, apart from its data, in a table of its own."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from era_kernels.errors import SessionNotFound
from era_kernels.models import Session, now
from era_kernels.storage.database import Database
from era_kernels.storage.sql_values import time_from_text, time_to_text


@dataclass(frozen=True, slots=True)
class StoredCode:
    """A program that runs where none is given."""

    code: str
    description: str
    updated_at: datetime


class CodeStore:
    """One row per session that has code; it goes with the session's row.

    A session is named by its directory, which no other ever has.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, session: Session, code: str, description: str | None) -> StoredCode:
        """Replace the code, durably; without a description the old one stays.

        Raises SessionNotFound when that very session is gone.
        """
        stored = await self._database.write(partial(_put, session.directory, code, description))
        if stored is None:
            raise SessionNotFound(f"There is no session {session.id}.", id=session.id)
        return stored

    async def find(self, directory: str) -> StoredCode | None:
        """The code of the session in that directory, if it has any."""
        return await self._database.read(partial(_find, directory))


# ---------------------------------------------------------------- in the database's threads


def _put(
    directory: str, code: str, description: str | None, connection: sqlite3.Connection
) -> StoredCode | None:
    """None when there is no such session."""
    updated_at = now()
    row = connection.execute(
        """
        INSERT INTO codes (directory, updated_at, description, code)
        SELECT directory, :updated_at, coalesce(:description, ''), :code
        FROM sessions WHERE directory = :directory
        ON CONFLICT (directory) DO UPDATE SET
            updated_at = excluded.updated_at,
            description = coalesce(:description, description),
            code = excluded.code
        RETURNING description
        """,
        {
            "directory": directory,
            "updated_at": time_to_text(updated_at),
            "description": description,
            "code": code,
        },
    ).fetchone()
    return None if row is None else StoredCode(code, row[0], updated_at)


def _find(directory: str, connection: sqlite3.Connection) -> StoredCode | None:
    row = connection.execute(
        "SELECT code, description, updated_at FROM codes WHERE directory = ?", (directory,)
    ).fetchone()
    if row is None:
        return None
    updated_at = time_from_text(row[2])
    assert updated_at is not None
    return StoredCode(row[0], row[1], updated_at)


def insert(directory: str, stored: StoredCode, connection: sqlite3.Connection) -> None:
    """For a session that is just being made, in the transaction that makes it."""
    connection.execute(
        "INSERT INTO codes (directory, updated_at, description, code) VALUES (?, ?, ?, ?)",
        (directory, time_to_text(stored.updated_at), stored.description, stored.code),
    )

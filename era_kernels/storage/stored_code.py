"""Stores at most one program per session, in a table of its own, apart from the session's row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from era_kernels.errors import SessionNotFound
from era_kernels.models import Session, now
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.sql_values import time_from_text, time_to_text


@dataclass(frozen=True, slots=True)
class StoredCode:
    """A program that runs when a request gives no code."""

    code: str
    description: str
    updated_at: datetime


class CodeStore:
    """Reads and writes stored code, one row per session that has any, deleted with the session.

    A session is named by its directory, which no other session ever has.
    """

    def __init__(self, database: Database, check_room: Callable[[], None] = always_room) -> None:
        """`check_room` raises InsufficientStorage when nothing new is to be stored."""
        self._database = database
        self._check_room = check_room

    async def put(self, session: Session, code: str, description: str | None) -> StoredCode:
        """Replaces the code, durably; without a description the old one stays.

        Raises SessionNotFound when that very session was deleted, InsufficientStorage.
        """
        self._check_room()
        stored = await self._database.write(partial(_put, session.directory, code, description))
        if stored is None:
            raise SessionNotFound.for_id(session.id)
        return stored

    async def find(self, directory: str) -> StoredCode | None:
        """Returns the code of the session in that directory, or None."""
        return await self._database.read(partial(_find, directory))

    async def exists(self, directory: str) -> bool:
        """Returns whether the session in that directory has code; it is not read."""
        return await self._database.read(partial(_exists, directory))


# ---------------------------------------------------------------- in the database's threads


def _put(
    directory: str, code: str, description: str | None, connection: sqlite3.Connection
) -> StoredCode | None:
    """Replaces the code of a session; returns None when there is no such session."""
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


def _exists(directory: str, connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM codes WHERE directory = ?", (directory,))
    return found.fetchone() is not None


def insert(directory: str, stored: StoredCode, connection: sqlite3.Connection) -> None:
    """Inserts the code of a new session, in the transaction that creates the session."""
    connection.execute(
        "INSERT INTO codes (directory, updated_at, description, code) VALUES (?, ?, ?, ?)",
        (directory, time_to_text(stored.updated_at), stored.description, stored.code),
    )

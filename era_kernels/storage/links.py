"""Stores links by the digests of their secrets, at most a number of them per session."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from era_kernels.errors import AtCapacity, SessionNotFound
from era_kernels.models import Link, LinkTarget, now
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.sql_values import time_from_text, time_to_text

MAX_LINKS = 1000  # of one session
KEPT_AFTER_EXPIRY = timedelta(days=7)  # in which an expired link is told from one that never was
SWEEP_BATCH = 200  # links that one transaction deletes: writes of others must not wait for long
_RETRY_AFTER_SECONDS = 60
_SELECT = """
    SELECT links.id, sessions.id, links.directory, links.created_at, links.expires_at,
           links.path, links.method, links.port
    FROM links JOIN sessions ON sessions.directory = links.directory
"""


class LinkStore:
    """Reads and writes links, one row each, deleted with their session.

    A session is named by its directory, which no other session ever has.
    """

    def __init__(
        self,
        database: Database,
        check_room: Callable[[], None] = always_room,
        max_links: int = MAX_LINKS,
    ) -> None:
        """`check_room` raises InsufficientStorage when nothing new is to be stored."""
        self._database = database
        self._check_room = check_room
        self._max_links = max_links

    async def create(self, link: Link, digest: bytes) -> None:
        """Inserts a link, durably; sweeps some of those that expired long ago.

        Raises SessionNotFound when that very session was deleted, AtCapacity, InsufficientStorage.
        """
        self._check_room()
        await self._database.write(partial(_create, link, digest, self._max_links))

    async def find(self, digest: bytes) -> Link | None:
        """Returns the link whose secret has this digest, expired or not; None for none."""
        return await self._database.read(partial(_find, digest))

    async def list_links(self, directory: str) -> list[Link]:
        """Returns the links of a session that have not expired, oldest first."""
        return await self._database.read(partial(_list, directory))

    async def delete(self, directory: str, link_id: str) -> bool:
        """Deletes a link of a session, durably; returns whether there was one."""
        return await self._database.write(partial(_delete, directory, link_id))

    async def sweep(self) -> None:
        """Deletes all links that expired long ago."""
        while await self._database.write(_sweep) == SWEEP_BATCH:
            pass


# ---------------------------------------------------------------- in the database's threads


def _create(link: Link, digest: bytes, max_links: int, connection: sqlite3.Connection) -> None:
    _sweep(connection)
    if _count(link.directory, connection) >= max_links:
        connection.execute(
            "DELETE FROM links WHERE directory = ? AND expires_at <= ?",
            (link.directory, time_to_text(now())),
        )
    if _count(link.directory, connection) >= max_links:
        raise AtCapacity(
            f"The session has {max_links} links, which is as many as a session may have.",
            hint="Delete one that is not needed, or wait until one has expired.",
            retry_after=_RETRY_AFTER_SECONDS,
        )
    cursor = connection.execute(
        """
        INSERT INTO links (digest, id, directory, created_at, expires_at, path, method, port)
        SELECT ?, ?, directory, ?, ?, ?, ?, ? FROM sessions WHERE directory = ?
        """,
        (
            digest,
            link.id,
            time_to_text(link.created_at),
            time_to_text(link.expires_at),
            link.target.path,
            link.target.method,
            link.target.port,
            link.directory,
        ),
    )
    if not cursor.rowcount:
        raise SessionNotFound.for_id(link.session_id)


def _count(directory: str, connection: sqlite3.Connection) -> int:
    query = "SELECT count(*) FROM links WHERE directory = ?"
    (count,) = connection.execute(query, (directory,)).fetchone()
    return int(count)


def _find(digest: bytes, connection: sqlite3.Connection) -> Link | None:
    row = connection.execute(f"{_SELECT} WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else _from_row(row)


def _list(directory: str, connection: sqlite3.Connection) -> list[Link]:
    rows = connection.execute(
        f"{_SELECT} WHERE links.directory = ? AND links.expires_at > ? ORDER BY links.created_at",
        (directory, time_to_text(now())),
    )
    return [_from_row(row) for row in rows]


def _delete(directory: str, link_id: str, connection: sqlite3.Connection) -> bool:
    cursor = connection.execute(
        "DELETE FROM links WHERE directory = ? AND id = ?", (directory, link_id)
    )
    return cursor.rowcount > 0


def _sweep(connection: sqlite3.Connection) -> int:
    """Deletes links that expired long ago, at most SWEEP_BATCH; returns how many it deleted."""
    cursor = connection.execute(
        """
        DELETE FROM links WHERE digest IN (
            SELECT digest FROM links WHERE expires_at <= ? ORDER BY expires_at LIMIT ?
        )
        """,
        (time_to_text(now() - KEPT_AFTER_EXPIRY), SWEEP_BATCH),
    )
    return cursor.rowcount


def _from_row(row: tuple[Any, ...]) -> Link:
    link_id, session_id, directory, created_at, expires_at, path, method, port = row
    target = LinkTarget(path=path, method=method, port=port)
    return Link(link_id, session_id, directory, _time(created_at), _time(expires_at), target)


def _time(text: str) -> datetime:
    found = time_from_text(text)
    assert found is not None
    return found

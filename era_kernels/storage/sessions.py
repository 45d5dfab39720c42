"""Stores the rows of sessions: their identity, data and metadata, and the fields of lists."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

from era_kernels.errors import SessionExists, SessionNotFound
from era_kernels.json_incremental import EncodedJson
from era_kernels.models import HostPatterns, JsonObject, Limits, Session, StorageScope
from era_kernels.storage import pending_removals, stored_code
from era_kernels.storage.database import Database
from era_kernels.storage.key_ranges import prefix_end
from era_kernels.storage.pending_removals import PendingRemovals
from era_kernels.storage.sql_values import json_to_text, time_from_text, time_to_text
from era_kernels.storage.stored_code import StoredCode

COLUMNS = tuple(field.name for field in fields(Session))
_ALL_COLUMNS = ", ".join(COLUMNS)
# `data` may have a megabyte per session, and lists leave it out.
_LIST_COLUMNS = ", ".join("NULL AS data" if name == "data" else name for name in COLUMNS)
_NO_LABELS: Mapping[str, str] = {}
# All labels are compared in one walk through the metadata, which may have a megabyte.
_HAS_LABELS = """(
    SELECT count(*) FROM json_each(sessions.metadata) AS label WHERE (
        label.key,
        CASE WHEN label.type IN ('true', 'false', 'null') THEN label.type
        ELSE CAST(label.value AS TEXT) END
    ) IN (VALUES {values})
) = {count}"""
# Of more characters, the metadata of a list stay as their JSON, which answers take as it is.
_LONG_METADATA = 64 * 1024

# For JSON that was written here; takes a third of the time of json.loads.
_raw_decode = json.JSONDecoder().raw_decode


def _object_from(text: str | None) -> JsonObject:
    value: JsonObject = {} if text is None else _raw_decode(text)[0]
    return value


def _limits_text(limits: Limits | None) -> str | None:
    if limits is None:
        return None
    return json_to_text(
        {name: value for name, value in asdict(limits).items() if value is not None}
    )


def _limits_from(text: str | None) -> Limits | None:
    return None if text is None else Limits(**_object_from(text))


def _names_text(names: tuple[str, ...]) -> str | None:
    return json.dumps(names) if names else None


def _names_from(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(json.loads(text))


def _scope_text(scope: StorageScope | None) -> str | None:
    return None if scope is None else json.dumps(scope.to_json())


def _scope_from(text: str | None) -> StorageScope | None:
    return None if text is None else StorageScope.parse(json.loads(text))


def _hosts_text(hosts: HostPatterns | None) -> str | None:
    return None if hosts is None else json.dumps(hosts.to_json())


def _hosts_from(text: str | None) -> HostPatterns | None:
    return None if text is None else HostPatterns.parse(json.loads(text))


_TO_COLUMN: dict[str, Callable[[Any], Any]] = {
    "created_at": time_to_text,
    "last_run_at": time_to_text,
    "data": json_to_text,
    "metadata": json_to_text,
    "limits": _limits_text,
    "mounts": _names_text,
    "storage": _scope_text,
    "allow_hosts": _hosts_text,
}
_FROM_COLUMN: dict[str, Callable[[Any], Any]] = {
    "created_at": time_from_text,
    "last_run_at": time_from_text,
    "data": _object_from,
    "metadata": _object_from,
    "persistent": bool,
    "allow_internet": bool,
    "allow_public": bool,
    "limits": _limits_from,
    "mounts": _names_from,
    "storage": _scope_from,
    "allow_hosts": _hosts_from,
}


_METADATA = COLUMNS.index("metadata")
_CONVERSIONS = tuple((COLUMNS.index(name), convert) for name, convert in _FROM_COLUMN.items())


class SessionStore:
    """Reads and writes sessions, one row each.

    Changes name a session by its directory, which no other session ever has: a change of a deleted
    session must not reach a new one with the same id.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.deleted = PendingRemovals(
            database, pending_removals.SESSION
        )  # directories that may still have to be removed

    async def create(self, session: Session, code: StoredCode | None = None) -> None:
        """Inserts a session and the code stored with it, durably.

        Raises SessionExists when the id is taken.
        """
        await self._database.write(partial(_insert, session, code))

    async def get(self, session_id: str) -> Session:
        """Returns a session. Raises SessionNotFound."""
        session = await self.find(session_id)
        if session is None:
            raise SessionNotFound.for_id(session_id)
        return session

    async def find(self, session_id: str) -> Session | None:
        """Returns the session, or None where no session has that id."""
        await self._database.flush()
        return await self._database.read(partial(_find, session_id))

    async def list_sessions(
        self,
        limit: int | None = None,
        offset: int = 0,
        language: str | None = None,
        *,
        prefix: str = "",
        metadata: Mapping[str, str] = _NO_LABELS,
    ) -> tuple[Iterator[Session], int]:
        """Lists sessions with empty `data`, oldest first, and counts those of all pages.

        They have that language, ids that begin with `prefix` and all labels of `metadata`, of
        which those that are no text are compared as JSON writes them.

        Each session is made from its row when it is iterated: ten thousand at once would hold up
        the event loop. Long metadata are an EncodedJson.
        """
        await self._database.flush()
        rows, total = await self._database.read_long(
            partial(_list, limit, offset, _where(language, prefix, metadata))
        )
        return map(_from_listed_row, rows), total

    async def update(self, session: Session, **changes: object) -> None:
        """Changes fields of that very session, durably. Raises SessionNotFound if deleted."""
        if not await self._database.write(partial(_update, session, changes)):
            raise SessionNotFound.for_id(session.id)

    def update_soon(self, session: Session, **changes: object) -> None:
        """Changes fields of that very session, unless it was deleted; does not wait."""
        self._database.write_soon(partial(_update, session, changes))

    async def delete(self, session_id: str, directory: str | None = None) -> Session:
        """Deletes a session, its index of executions, code and links; notes its directory.

        Raises SessionNotFound, also when the session is not the one in that directory.
        """
        return await self._database.write(partial(_delete, session_id, directory))

    async def delete_all(self) -> list[Session]:
        """Deletes every session; returns the deleted sessions, with empty `data`."""
        return await self._database.write(_delete_all)


def _to_columns(values: dict[str, Any]) -> dict[str, Any]:
    """Converts fields, by name, to the values of their columns."""
    return {
        name: _TO_COLUMN[name](value) if name in _TO_COLUMN else value
        for name, value in values.items()
    }


def _from_row(row: tuple[Any, ...]) -> Session:
    values = list(row)
    for index, convert in _CONVERSIONS:
        values[index] = convert(values[index])
    return Session(*values)


def _from_listed_row(row: tuple[Any, ...]) -> Session:
    text = row[_METADATA]
    if text is None or len(text) <= _LONG_METADATA:
        return _from_row(row)
    encoded: Any = EncodedJson([text.encode()])
    return replace(_from_row((*row[:_METADATA], None, *row[_METADATA + 1 :])), metadata=encoded)


# ---------------------------------------------------------------- in the database's threads


def _insert(session: Session, code: StoredCode | None, connection: sqlite3.Connection) -> None:
    values = _to_columns({name: getattr(session, name) for name in COLUMNS})
    placeholders = ", ".join(f":{name}" for name in COLUMNS)
    cursor = connection.execute(
        f"INSERT INTO sessions ({_ALL_COLUMNS}) VALUES ({placeholders}) "
        "ON CONFLICT (id) DO NOTHING",
        values,
    )
    if not cursor.rowcount:
        raise SessionExists(f"The session {session.id} exists already.", id=session.id)
    if code is not None:
        stored_code.insert(session.directory, code, connection)


def _find(session_id: str, connection: sqlite3.Connection) -> Session | None:
    row = connection.execute(
        f"SELECT {_ALL_COLUMNS} FROM sessions WHERE id = ?", (session_id,)
    ).fetchone()
    return None if row is None else _from_row(row)


def _where(
    language: str | None, prefix: str, metadata: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    """Returns the WHERE clause that selects sessions, and its values."""
    conditions: list[tuple[str, tuple[str, ...]]] = []
    if language is not None:
        conditions.append(("language = ?", (language,)))
    if prefix:
        conditions.append(("id >= ?", (prefix,)))
        end = prefix_end(prefix)
        if end is not None:
            conditions.append(("id < ?", (end,)))
    if metadata:
        values = ", ".join(["(?, ?)"] * len(metadata))
        labels = tuple(text for label in metadata.items() for text in label)
        conditions.append((_HAS_LABELS.format(values=values, count=len(metadata)), labels))
    if not conditions:
        return "", ()
    texts = " AND ".join(text for text, _ in conditions)
    return f"WHERE {texts}", tuple(value for _, values in conditions for value in values)


def _list(
    limit: int | None,
    offset: int,
    selection: tuple[str, tuple[str, ...]],
    connection: sqlite3.Connection,
) -> tuple[list[tuple[Any, ...]], int]:
    where, values = selection
    (total,) = connection.execute(f"SELECT count(*) FROM sessions {where}", values).fetchone()
    rows = connection.execute(
        f"SELECT {_LIST_COLUMNS} FROM sessions {where} ORDER BY created_at, rowid LIMIT ? OFFSET ?",
        (*values, -1 if limit is None else limit, offset),
    )
    return rows.fetchall(), total


def _update(session: Session, changes: dict[str, Any], connection: sqlite3.Connection) -> bool:
    """Changes fields of a session; returns True if its row exists."""
    unknown = changes.keys() - set(COLUMNS)
    if unknown:
        raise TypeError(f"a session has no {', '.join(sorted(unknown))}")
    assignments = ", ".join(f"{name} = :{name}" for name in changes) or "id = id"
    cursor = connection.execute(
        f"UPDATE sessions SET {assignments} WHERE directory = :this_directory",
        {**_to_columns(changes), "this_directory": session.directory},
    )
    return cursor.rowcount > 0


def _delete(session_id: str, directory: str | None, connection: sqlite3.Connection) -> Session:
    session = _find(session_id, connection)
    if session is None or directory not in (None, session.directory):
        raise SessionNotFound.for_id(session_id)
    connection.execute("DELETE FROM codes WHERE directory = ?", (session.directory,))
    connection.execute("DELETE FROM links WHERE directory = ?", (session.directory,))
    connection.execute("DELETE FROM executions WHERE session_id = ?", (session_id,))
    connection.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
    pending_removals.insert(pending_removals.SESSION, [session.directory], connection)
    return session


def _delete_all(connection: sqlite3.Connection) -> list[Session]:
    rows, _ = _list(None, 0, ("", ()), connection)
    connection.execute("DELETE FROM codes")
    connection.execute("DELETE FROM links")
    connection.execute("DELETE FROM executions")
    connection.execute("DELETE FROM sessions")
    sessions = [_from_row(row) for row in rows]
    pending_removals.insert(
        pending_removals.SESSION, (one.directory for one in sessions), connection
    )
    return sessions

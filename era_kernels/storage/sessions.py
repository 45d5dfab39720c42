"""The sessions' rows: who they are, their data and metadata, and what lists tell of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from era_kernels.errors import SessionExists, SessionNotFound
from era_kernels.models import JsonObject, Limits, Session
from era_kernels.storage import codes
from era_kernels.storage.codes import StoredCode
from era_kernels.storage.rows import json_text, time_from, time_text
from era_kernels.storage.sqlite import Database

COLUMNS = tuple(field.name for field in fields(Session))
_ALL = ", ".join(COLUMNS)
# `data` may have a megabyte per session, and lists do without it.
_LISTED = ", ".join("NULL AS data" if name == "data" else name for name in COLUMNS)

_parse = json.JSONDecoder().raw_decode  # text of our own; a third of what json.loads takes


def _object_from(text: str | None) -> JsonObject:
    value: JsonObject = {} if text is None else _parse(text)[0]
    return value


def _limits_text(limits: Limits | None) -> str | None:
    if limits is None:
        return None
    return json_text({name: value for name, value in asdict(limits).items() if value is not None})


def _limits_from(text: str | None) -> Limits | None:
    return None if text is None else Limits(**_object_from(text))


def _names_text(names: tuple[str, ...]) -> str | None:
    return json.dumps(names) if names else None


def _names_from(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(json.loads(text))


_TO_COLUMN: dict[str, Callable[[Any], Any]] = {
    "created_at": time_text,
    "last_run_at": time_text,
    "data": json_text,
    "metadata": json_text,
    "limits": _limits_text,
    "mounts": _names_text,
}
_FROM_COLUMN: dict[str, Callable[[Any], Any]] = {
    "created_at": time_from,
    "last_run_at": time_from,
    "data": _object_from,
    "metadata": _object_from,
    "persistent": bool,
    "allow_internet": bool,
    "allow_public": bool,
    "limits": _limits_from,
    "mounts": _names_from,
}


_CONVERTED = tuple((COLUMNS.index(name), convert) for name, convert in _FROM_COLUMN.items())


class SessionStore:
    """One row per session. Changes name a session by its directory, which no other ever has:
    what was meant for a deleted session must not reach one that got its id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, session: Session, code: StoredCode | None = None) -> None:
        """A session and the code stored with it. Durable when it returns.

        Raises SessionExists when the id is taken.
        """
        await self._database.write(partial(_insert, session, code))

    async def get(self, id: str) -> Session:  # noqa: A002 - the word of the API
        """Raises SessionNotFound."""
        session = await self.find(id)
        if session is None:
            raise _not_found(id)
        return session

    async def find(self, id: str) -> Session | None:  # noqa: A002
        """The session, if there is one of that id."""
        await self._database.settled()
        return await self._database.read(partial(_select, id))

    async def list_sessions(
        self, limit: int | None = None, offset: int = 0, language: str | None = None
    ) -> tuple[Iterator[Session], int]:
        """Sessions with empty `data`, oldest first, and how many there are of that language.

        Each is made of its row when it is asked for: ten thousand at once hold everybody up.
        """
        await self._database.settled()
        rows, total = await self._database.read(partial(_list, limit, offset, language))
        return map(_session, rows), total

    async def update(self, session: Session, **changes: object) -> None:
        """Change fields of that very session, durably. Raises SessionNotFound when it is gone."""
        if not await self._database.write(partial(_update, session, changes)):
            raise _not_found(session.id)

    def update_soon(self, session: Session, **changes: object) -> None:
        """Change fields of that very session, if it is still there, without waiting."""
        self._database.write_soon(partial(_update, session, changes))

    async def delete(self, id: str, directory: str | None = None) -> Session:  # noqa: A002
        """Delete a session, the index of its executions and its code.

        Raises SessionNotFound, also when it is not the one in that directory.
        """
        return await self._database.write(partial(_delete, id, directory))

    async def delete_all(self) -> list[Session]:
        """Delete every session; what was deleted, with empty `data`."""
        return await self._database.write(_delete_all)


def _not_found(id: str) -> SessionNotFound:  # noqa: A002
    return SessionNotFound(f"There is no session {id}.", id=id)


def _columns(values: dict[str, Any]) -> dict[str, Any]:
    """Fields by name as their columns hold them."""
    return {
        name: _TO_COLUMN[name](value) if name in _TO_COLUMN else value
        for name, value in values.items()
    }


def _session(row: tuple[Any, ...]) -> Session:
    values = list(row)
    for index, convert in _CONVERTED:
        values[index] = convert(values[index])
    return Session(*values)


# ---------------------------------------------------------------- in the database's threads


def _insert(session: Session, code: StoredCode | None, connection: sqlite3.Connection) -> None:
    values = _columns({name: getattr(session, name) for name in COLUMNS})
    marks = ", ".join(f":{name}" for name in COLUMNS)
    done = connection.execute(
        f"INSERT INTO sessions ({_ALL}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", values
    )
    if not done.rowcount:
        raise SessionExists(f"The session {session.id} exists already.", id=session.id)
    if code is not None:
        codes.insert(session.directory, code, connection)


def _select(id: str, connection: sqlite3.Connection) -> Session | None:  # noqa: A002
    row = connection.execute(f"SELECT {_ALL} FROM sessions WHERE id = ?", (id,)).fetchone()
    return None if row is None else _session(row)


def _list(
    limit: int | None, offset: int, language: str | None, connection: sqlite3.Connection
) -> tuple[list[tuple[Any, ...]], int]:
    where, values = ("", ()) if language is None else ("WHERE language = ?", (language,))
    (total,) = connection.execute(f"SELECT count(*) FROM sessions {where}", values).fetchone()
    rows = connection.execute(
        f"SELECT {_LISTED} FROM sessions {where} ORDER BY created_at, rowid LIMIT ? OFFSET ?",
        (*values, -1 if limit is None else limit, offset),
    )
    return rows.fetchall(), total


def _update(session: Session, changes: dict[str, Any], connection: sqlite3.Connection) -> bool:
    """Whether the session was there."""
    unknown = changes.keys() - set(COLUMNS)
    if unknown:
        raise TypeError(f"a session has no {', '.join(sorted(unknown))}")
    settings = ", ".join(f"{name} = :{name}" for name in changes) or "id = id"
    done = connection.execute(
        f"UPDATE sessions SET {settings} WHERE directory = :this_directory",
        {**_columns(changes), "this_directory": session.directory},
    )
    return done.rowcount > 0


def _delete(id: str, directory: str | None, connection: sqlite3.Connection) -> Session:  # noqa: A002
    session = _select(id, connection)
    if session is None or directory not in (None, session.directory):
        raise _not_found(id)
    connection.execute("DELETE FROM codes WHERE directory = ?", (session.directory,))
    connection.execute("DELETE FROM executions WHERE session_id = ?", (id,))
    connection.execute("DELETE FROM sessions WHERE id = ?", (id,))
    return session


def _delete_all(connection: sqlite3.Connection) -> list[Session]:
    rows, _ = _list(None, 0, None, connection)
    connection.execute("DELETE FROM codes")
    connection.execute("DELETE FROM executions")
    connection.execute("DELETE FROM sessions")
    return [_session(row) for row in rows]

"""Reads and writes the rows of executions, in the database's threads, for `ExecutionStore`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from era_kernels.models import Execution, ExecutionStatus, IdempotencyKey, JsonObject
from era_kernels.storage.sql_values import time_from_text, time_to_text

_COLUMNS = (
    "id, session_id, code, created_at, status, started_at, finished_at, exit_code, cause, "
    "is_request"
)

REQUEST_SHARE = 10  # of what is kept, one part more is kept of requests to stored code
LISTED_CODE_BYTES = 4096  # of the code of an execution in a list
_LISTED_COLUMNS = _COLUMNS.replace(
    " code,",
    f" substr(CAST(code AS BLOB), 1, {LISTED_CODE_BYTES}),",  # as a BLOB, for NUL ends a text
)


@dataclass(frozen=True, slots=True)
class UnfinishedExecution:
    """An execution that a former server did not finish, with facts about its session."""

    execution: Execution
    directory: str
    language: str
    kernel_generation: int
    data: JsonObject


@dataclass(frozen=True, slots=True)
class StatusFilter:
    """Selects executions by status; `known` has the status of those that their rows tell late."""

    status: ExecutionStatus
    known: Mapping[str, ExecutionStatus]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a session's executions."""

    limit: int | None
    offset: int
    newest_first: bool
    selected: StatusFilter | None


def insert(
    execution: Execution, directory: str, connection: sqlite3.Connection, size: int | None = None
) -> None:
    """Inserts an execution unless its session was deleted: a new one may have its id by now.

    `size` is that of the log in bytes, if known.
    """
    connection.execute(
        f"INSERT OR IGNORE INTO executions ({_COLUMNS}, directory, size) "
        "SELECT :id, :session_id, :code, :created_at, :status, :started_at, :finished_at, "
        ":exit_code, :cause, :is_request, :directory, :size "
        "WHERE EXISTS (SELECT 1 FROM sessions WHERE directory = :directory)",
        {**_to_columns(execution), "directory": directory, "size": size or 0},
    )


def insert_with_key(
    execution: Execution,
    directory: str,
    idempotency: IdempotencyKey,
    connection: sqlite3.Connection,
) -> None:
    """Inserts an execution with an idempotency key.

    Raises sqlite3.IntegrityError when the key is taken.
    """
    insert(execution, directory, connection)
    connection.execute(
        "UPDATE executions SET idempotency_key = ?, body_digest = ? WHERE id = ?",
        (idempotency.key, idempotency.digest, execution.id),
    )


def find_key(directory: str, key: str, connection: sqlite3.Connection) -> tuple[str, bytes] | None:
    """Finds the id of the execution that has an idempotency key, and the digest of its body."""
    row: tuple[str, bytes] | None = connection.execute(
        "SELECT id, body_digest FROM executions WHERE directory = ? AND idempotency_key = ?",
        (directory, key),
    ).fetchone()
    return row


def release_key(execution_id: str, connection: sqlite3.Connection) -> None:
    """Removes an execution's idempotency key, so that the key is free again."""
    connection.execute(
        "UPDATE executions SET idempotency_key = NULL, body_digest = NULL WHERE id = ?",
        (execution_id,),
    )


def update(execution: Execution, size: int | None, connection: sqlite3.Connection) -> None:
    """Stores all fields that may change; `size` is that of the log in bytes, if known."""
    connection.execute(
        "UPDATE executions SET status = :status, started_at = :started_at, "
        "finished_at = :finished_at, exit_code = :exit_code, cause = :cause, "
        "size = coalesce(:size, size) WHERE id = :id",
        {**_to_columns(execution), "size": size},
    )


def find(session_id: str, execution_id: str, connection: sqlite3.Connection) -> Execution | None:
    """Finds an execution of a session."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM executions WHERE id = ? AND session_id = ?",
        (execution_id, session_id),
    ).fetchone()
    return None if row is None else _from_row(row)


def list_page(
    session_id: str, page: Page, connection: sqlite3.Connection
) -> tuple[list[Execution], int]:
    """Lists the executions of a page, and counts those of all pages."""
    where, values = "session_id = :session", {"session": session_id}
    if page.selected is not None:
        where += (
            " AND (id IN (SELECT value FROM json_each(:matching)) OR status = :status"
            " AND id NOT IN (SELECT value FROM json_each(:known)))"
        )
        status, known = page.selected.status, page.selected.known
        matching = [key for key, present in known.items() if present is status]
        values |= {
            "status": status.value,
            "matching": json.dumps(matching),
            "known": json.dumps(list(known)),
        }
    count = f"SELECT count(*) FROM executions WHERE {where}"
    (total,) = connection.execute(count, values).fetchone()
    direction = "DESC" if page.newest_first else "ASC"
    rows = connection.execute(
        f"SELECT {_LISTED_COLUMNS} FROM executions WHERE {where} "
        f"ORDER BY created_at {direction}, rowid {direction} LIMIT :limit OFFSET :offset",
        {**values, "limit": -1 if page.limit is None else page.limit, "offset": page.offset},
    )
    return [_from_row(row) for row in rows], total


def trim(
    session_id: str, directory: str, keep: int, keep_bytes: int, connection: sqlite3.Connection
) -> list[str]:
    """Deletes the oldest finished rows beyond `keep` rows or `keep_bytes`; returns their ids.

    Requests to stored code are counted apart, with a REQUEST_SHARE of both: whoever sends them
    must not have the caller's own runs deleted. The newest row of each kind always stays.
    """
    rows = connection.execute(
        "SELECT id FROM ("
        "  SELECT id, status, is_request,"
        "  row_number() OVER newer AS place, sum(size) OVER newer AS bytes"
        "  FROM executions WHERE session_id = :session AND directory = :directory"
        "  WINDOW newer AS (PARTITION BY is_request ORDER BY created_at DESC, rowid DESC)"
        ") WHERE place > 1 AND status = 'finished' AND (place > iif(is_request, :requests, :keep)"
        " OR bytes > iif(is_request, :request_bytes, :keep_bytes))",
        {
            "session": session_id,
            "directory": directory,
            "keep": keep,
            "keep_bytes": keep_bytes,
            "requests": keep // REQUEST_SHARE,
            "request_bytes": keep_bytes // REQUEST_SHARE,
        },
    ).fetchall()
    connection.executemany("DELETE FROM executions WHERE id = ?", rows)
    return [execution_id for (execution_id,) in rows]


# ---------------------------------------------------------------- after a start


def session_ids(connection: sqlite3.Connection) -> dict[str, str]:
    """Maps the directory of every session to the session's id."""
    return dict(connection.execute("SELECT directory, id FROM sessions"))


def execution_ids(session_id: str, connection: sqlite3.Connection) -> set[str]:
    """Returns the ids of a session's executions."""
    rows = connection.execute("SELECT id FROM executions WHERE session_id = ?", (session_id,))
    return {execution_id for (execution_id,) in rows}


def unfinished_ids(connection: sqlite3.Connection) -> list[str]:
    """Returns the ids of executions that are queued or running, oldest first."""
    rows = connection.execute(
        "SELECT executions.id FROM executions JOIN sessions USING (directory) "
        "WHERE status != 'finished' ORDER BY executions.created_at, executions.rowid"
    )
    return [execution_id for (execution_id,) in rows]


def get_unfinished(execution_id: str, connection: sqlite3.Connection) -> UnfinishedExecution:
    """Returns an execution of `unfinished_ids`, with the facts that recovery needs."""
    names = ", ".join(f"executions.{name}" for name in _COLUMNS.split(", "))
    *row, directory, language, generation, data = connection.execute(
        f"SELECT {names}, executions.directory, language, kernel_generation, data "
        "FROM executions JOIN sessions USING (directory) WHERE executions.id = ?",
        (execution_id,),
    ).fetchone()
    return UnfinishedExecution(_from_row(row), directory, language, generation, json.loads(data))


# ---------------------------------------------------------------- columns


def _to_columns(execution: Execution) -> Mapping[str, Any]:
    return {
        "id": execution.id,
        "session_id": execution.session_id,
        "code": execution.code,
        "created_at": time_to_text(execution.created_at),
        "status": execution.status.value,
        "started_at": time_to_text(execution.started_at),
        "finished_at": time_to_text(execution.finished_at),
        "exit_code": execution.exit_code,
        "cause": execution.cause,
        "is_request": execution.is_request,
    }


def _from_row(row: Any) -> Execution:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    if isinstance(values["code"], bytes):  # cut, maybe inside a character
        values["code"] = values["code"].decode("utf-8", "ignore")
    for name in ("created_at", "started_at", "finished_at"):
        values[name] = time_from_text(values[name])
    values["is_request"] = bool(values["is_request"])
    return Execution(**{**values, "status": ExecutionStatus(values["status"])})

"""The program of a worker: takes a request from its socket, runs it, answers; one at a time."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import signal
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from era_kernels.storage.d1.worker.connections import (
    MAX_MEMORY,
    MIB,
    OpenDatabase,
    OpenDatabases,
)
from era_kernels.storage.d1.worker.framing import frame_reply, receive_request
from era_kernels.storage.d1.worker.outcomes import Outcome, RequestFailed, outcome_of
from era_kernels.storage.d1.worker.room import RoomWatch
from era_kernels.storage.d1.worker.rows import RowBudget
from era_kernels.storage.d1.worker.statements import (
    Result,
    parse_entry,
    run_entry,
    run_query,
    table_sizes,
)

MAX_OPEN_FILES = 128
# Bytes of a database up to which the sizes of its tables are counted: in the background, and while
# the caller of a change of the schema waits.
MAX_SCANNED, MAX_SCANNED_AT_ONCE = 32 * MIB, 2 * MIB
FREE_PAGES = 256  # unused pages from which a database is made smaller
VACUUMED_PAGES = 4096  # pages that it gives back at once, which takes little time
KEPT_LOG = 256 * 1024  # bytes of a write-ahead log that is not emptied while nothing changes
# Characters of names in an answer, each of which may take 6 bytes there: see MAX_HEAD.
MAX_NAMES = 4 * MIB
_PR_SET_PDEATHSIG = 1


class Interruption:
    """Tells SQLite to stop: at a deadline, or when the server sends SIGUSR1."""

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.is_cancelled = False

    def begin(self, timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self.is_cancelled = False

    def cancel(self, *_: object) -> None:
        self.is_cancelled = True

    def is_due(self) -> bool:
        return self.is_cancelled or time.monotonic() > self.deadline


class Worker:
    """Runs requests; each is a JSON object as `D1Store` makes it."""

    def __init__(self, watch: RoomWatch) -> None:
        self.interruption = Interruption()
        self._watch = watch
        self._databases = OpenDatabases(self.interruption.is_due)

    def run(self, request: dict[str, Any]) -> bytes:
        """Returns the frame that answers a request, whatever happens to it."""
        self.interruption.begin(request["timeout"])
        self._watch.has_stopped = False
        head: dict[str, Any] = {"outcome": Outcome.DONE}
        results: list[Result] = []
        try:
            if request["mode"] == "query":
                results = self._query(request, head)
            elif request["mode"] == "tables":
                self._tables(request, head)
            else:
                results = self._write(request, head)
        except RequestFailed as failure:
            if failure.outcome == Outcome.FAILED:
                self._databases.forget(request["path"])
            self._describe(failure, head)
        except (sqlite3.Error, OSError) as error:  # a file that cannot be opened
            self._databases.forget(request["path"])
            directory = os.path.dirname(request["path"])  # noqa: PTH120
            self._describe(RequestFailed(outcome_of(error, directory)), head)
        except MemoryError:
            head["outcome"] = Outcome.OUT_OF_MEMORY
        head["results"] = [_describe_result(result) for result in results]
        return frame_reply(
            json.dumps(head).encode(), b"".join(result.rows or b"" for result in results)
        )

    def close(self) -> None:
        """Closes all databases."""
        self._databases.close()

    def _describe(self, failure: RequestFailed, head: dict[str, Any]) -> None:
        head["outcome"] = failure.outcome
        if failure.outcome == Outcome.TIMEOUT:
            if self._watch.has_stopped:
                head["outcome"] = Outcome.DISK_RESERVED
            elif self.interruption.is_cancelled:
                head["outcome"] = Outcome.CANCELLED
        head["details"], head["reason"] = failure.details, failure.reason

    def _query(self, request: dict[str, Any], head: dict[str, Any]) -> list[Result]:
        [(sql, params)] = request["entries"]
        parts, bound = parse_entry(sql, params)
        database = self._databases.get(request["path"], is_read_only=True)
        result = run_query(database, parts, bound, _budget(request))
        head["size"] = database.known_size
        return [result]

    def _write(self, request: dict[str, Any], head: dict[str, Any]) -> list[Result]:
        entries = []
        for index, (sql, params) in enumerate(request["entries"]):
            head["index"] = index
            entries.append(parse_entry(sql, params))
        database = self._databases.get(request["path"], is_read_only=False)
        budget, results = _budget(request), []
        database.limit_size(request["max_size"])
        authorizer = database.authorizer
        authorizer.begin_request(may_grow=request["may_grow"])
        database.give_log_back()  # one that a worker left which was ended
        database.own("BEGIN IMMEDIATE")
        try:
            self._watch.begin(
                database.connection, request["path"], request["keep"], lambda: authorizer.has_grown
            )
            database.refresh_schema()
            version = database.schema_version
            for index, (parts, bound) in enumerate(entries):
                head["index"] = index
                results.append(run_entry(database, parts, bound, budget, self._watch.check))
            self._watch.check_commit()
            self._watch.end()
            _commit(database)
        except BaseException:
            self._watch.end()
            if database.connection.in_transaction:
                database.own("ROLLBACK")
            database.schema_version = -1
            raise
        finally:
            with suppress(sqlite3.Error):
                head["size"] = database.size()
                database.give_log_back()
        head["changed_tables"] = first_names(sorted(authorizer.changed_tables), MAX_NAMES)
        if database.schema_version != version:
            head["tables"] = _short_enough(table_sizes(database, MAX_SCANNED_AT_ONCE))
            head["more"] = head["size"] > MAX_SCANNED_AT_ONCE
        return results

    def _tables(self, request: dict[str, Any], head: dict[str, Any]) -> None:
        """Makes a database smaller that has unused pages, and tells of its tables."""
        database = self._databases.get(request["path"], is_read_only=False)
        database.refresh_schema()
        if database.own("PRAGMA freelist_count") >= FREE_PAGES:
            # It works while its rows are fetched, which have no columns: only a script gets all.
            database.connection.executescript(f"PRAGMA incremental_vacuum({VACUUMED_PAGES})")
        has_log = not database.give_log_back(KEPT_LOG)
        head["more"] = has_log or database.own("PRAGMA freelist_count") >= FREE_PAGES
        head["tables"] = _short_enough(table_sizes(database, MAX_SCANNED))
        head["size"] = database.size()


def first_names(names: Sequence[str], max_length: int) -> list[str]:
    """Returns the first names, as many as have that length together."""
    ends = itertools.accumulate(map(len, names))
    return [name for name, end in zip(names, ends, strict=True) if end <= max_length]


def _short_enough(tables: list[tuple[str, int]]) -> list[tuple[str, int]] | None:
    """Returns tables with their sizes; None where their names are too long for an answer."""
    return tables if sum(len(name) for name, _ in tables) <= MAX_NAMES else None


def _commit(database: OpenDatabase) -> None:
    try:
        database.own("COMMIT")
    except sqlite3.IntegrityError as error:  # a foreign key whose check was deferred
        raise RequestFailed(Outcome.SQL_ERROR, str(error)) from error


def _budget(request: dict[str, Any]) -> RowBudget:
    return RowBudget(request["max_rows"], request["max_result"])


def _describe_result(result: Result) -> dict[str, Any]:
    return {
        "length": None if result.rows is None else len(result.rows),
        "duration": round(result.duration, 3),
        "changes": result.changes,
        "last_row_id": result.last_row_id,
        "rows_read": result.rows_read,
        "rows_written": result.rows_written,
        "changed_db": result.changed_db,
    }


def _set_limits(max_file: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o077)
    for name, value in (
        (resource.RLIMIT_DATA, MAX_MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, max_file),
    ):
        _, hard = resource.getrlimit(name)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(name, (value, value))


def _end_for_room(connection: socket.socket) -> None:
    head = {"outcome": Outcome.DISK_RESERVED, "is_ending": True}
    connection.sendall(frame_reply(json.dumps(head).encode(), b""))
    os._exit(1)


def main(descriptor: int, max_file: int) -> None:
    """Works until the server closes its end of the socket; files may have `max_file` bytes."""
    with socket.socket(fileno=descriptor) as connection:
        watch = RoomWatch(partial(_end_for_room, connection))
        watch.start()
        _set_limits(max_file)
        worker = Worker(watch)
        signal.signal(signal.SIGUSR1, worker.interruption.cancel)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the server ends its workers when it is done
        connection.sendall(frame_reply(b"{}", b""))  # it is ready
        while (request := receive_request(connection)) is not None:
            connection.sendall(worker.run(json.loads(request)))
            del request  # it may be large
        worker.close()

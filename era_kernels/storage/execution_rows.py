"""Writes the rows of executions soon: what changes within a moment is written at once.

A short run is queued, started and finished before its row is written the first time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from era_kernels.models import Execution
from era_kernels.storage import executions_table
from era_kernels.storage.database import Database

Trim = Callable[[sqlite3.Connection], list[str]]


@dataclass(slots=True)
class _WaitingRow:
    """The newest values of a row that waits to be written; `directory` is None unless it is new."""

    execution: Execution
    directory: str | None
    size: int | None = None
    on_committed: list[Callable[[None], object]] = field(default_factory=list)

    def write(self, connection: sqlite3.Connection) -> None:
        if self.directory is None:
            executions_table.update(self.execution, self.size, connection)
        else:
            executions_table.insert(self.execution, self.directory, connection, self.size)


class ExecutionRows:
    """Writes and trims rows without waiting; its methods may not be called by two threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The writer's thread takes a row out when it writes it.
        self._lock = threading.Lock()
        self._waiting: dict[str, _WaitingRow] = {}
        self._last_trims: dict[str, Trim] = {}

    def write_soon(
        self,
        execution: Execution,
        size: int | None = None,
        on_committed: Callable[[None], object] | None = None,
        *,
        directory: str | None = None,
    ) -> None:
        """Inserts the row of an execution of the session in `directory`, or changes a row.

        `size` is that of the log in bytes, if known. `on_committed` is called in another thread
        once the row is durable; it must not raise.
        """
        with self._lock:
            row = self._waiting.get(execution.id)
            if row is None:
                row = _WaitingRow(execution, directory)
                self._database.write_soon(partial(self._write, row), partial(_report, row))
                self._waiting[execution.id] = row
            row.execution = execution
            row.size = row.size if size is None else size
            if on_committed is not None:
                row.on_committed.append(on_committed)

    def trim_soon(
        self, directory: str, trim: Trim, on_committed: Callable[[Sequence[str]], object]
    ) -> None:
        """Trims the executions of a session, unless it is asked again before that is done.

        `on_committed` is called in another thread with what `trim` returned; it must not raise.
        """
        with self._lock:
            self._last_trims[directory] = trim
        self._database.write_soon(partial(self._trim, directory, trim), on_committed)

    # ------------------------------------------------------------ in the writer's thread

    def _write(self, row: _WaitingRow, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self._waiting.get(row.execution.id) is row:
                del self._waiting[row.execution.id]
        row.write(connection)

    def _trim(self, directory: str, trim: Trim, connection: sqlite3.Connection) -> list[str]:
        with self._lock:
            if self._last_trims.get(directory, trim) is not trim:
                return []
            self._last_trims.pop(directory, None)
        return trim(connection)


def _report(row: _WaitingRow, _: None) -> None:
    for on_committed in row.on_committed:
        on_committed(None)

"""Ends a change before it takes room on the disk that is to be kept free."""

from __future__ import annotations

import _thread  # `threading` takes 2 ms to import
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress

from era_kernels.storage.d1.worker.outcomes import Outcome, RequestFailed

PAUSE = 0.02  # seconds between two looks at the disk
SCAN_SHARE = 20  # a look takes at most this part of the time
# Seconds for which SQLite may not hear that it is to stop: one row with many indexes takes long.
GRACE, SHORT_GRACE = 1.0, 0.2  # and where what is to be kept free has been touched
# Bytes of a write-ahead log that count for nothing: SQLite copies one of half of that into the
# database by itself, and those that are larger are given back after the change.
SMALL_LOG = 8 * 1024 * 1024
_STACK = 256 * 1024
_LOG_SUFFIX = "-wal"


def log_size(path: str) -> int:
    """Returns the bytes of the write-ahead log of a database; 0 where there is none."""
    try:
        return os.stat(path + _LOG_SUFFIX).st_size  # noqa: PTH116 - no pathlib, which is slow
    except FileNotFoundError:
        return 0


def free_bytes(directory: str) -> int:
    """Returns the bytes that may still be written to the disk of a directory."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def logs_size(directory: str) -> int:
    """Returns the bytes of all larger write-ahead logs in a directory."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(_LOG_SUFFIX):
                with suppress(OSError):  # it is gone
                    size = entry.stat(follow_symlinks=False).st_size
                    total += size if size > SMALL_LOG else 0
    return total


class _Change:
    """One change that runs."""

    __slots__ = ("connection", "directory", "grows", "keep", "path", "stopped_at")

    def __init__(
        self, connection: sqlite3.Connection, path: str, keep: int, grows: Callable[[], bool]
    ) -> None:
        self.connection, self.path, self.keep, self.grows = connection, path, keep, grows
        self.directory = os.path.dirname(path)  # noqa: PTH120
        self.stopped_at: float | None = None

    def is_too_much(self) -> bool:
        """Returns whether the disk has too little room for the change to go on.

        What is written to a log is written to the database once more. So what grows stops when the
        logs of all that run could not be copied any more; what deletes takes its log alone.
        """
        try:
            free = free_bytes(self.directory)
            if self.grows():
                return free < self.keep or free - logs_size(self.directory) < self.keep
            return free < self.keep // 2 and log_size(self.path) > SMALL_LOG
        except OSError:  # what is written next will tell
            return False

    def grace(self) -> float:
        """Returns for how many seconds it may go on that it was told to stop."""
        with suppress(OSError):
            if free_bytes(self.directory) >= self.keep:
                return GRACE
        return SHORT_GRACE


class RoomWatch:
    """A thread that looks at the disk while a change runs, and stops the change in time.

    SQLite looks for an interruption at each row, and calls a progress handler after thousands.
    """

    def __init__(self, end_process: Callable[[], None]) -> None:
        """`end_process` answers and ends the worker, for a change that cannot be interrupted."""
        self.has_stopped = False  # what runs; the worker sets it back with each request
        self._end_process = end_process
        self._change: _Change | None = None
        self._lock = _thread.allocate_lock()  # nothing is interrupted after `end`
        self._wake = _thread.allocate_lock()
        self._wake.acquire()

    def start(self) -> None:
        """Starts the thread, which must be before threads are forbidden."""
        _thread.stack_size(_STACK)
        _thread.start_new_thread(self._run, ())

    def begin(
        self, connection: sqlite3.Connection, path: str, keep: int, grows: Callable[[], bool]
    ) -> None:
        """Watches a change from here on; `keep` are the bytes to be kept free, 0 for none.

        `grows` tells whether it has done anything that makes the database larger.
        """
        if keep:
            self._change = _Change(connection, path, keep, grows)
            if self._wake.locked():
                self._wake.release()

    def end(self) -> None:
        """Lets the connection alone from here on; a second call is fine."""
        with self._lock:
            self._change = None

    def check(self) -> None:
        """Raises RequestFailed when the change has been stopped: SQLite forgets it between two."""
        if self.has_stopped:
            raise RequestFailed(Outcome.DISK_RESERVED)

    def check_commit(self) -> None:
        """Raises RequestFailed where a change must not be stored; a large one takes room again."""
        change = self._change
        if change is not None and log_size(change.path) > SMALL_LOG and change.is_too_much():
            self.has_stopped = True
        self.check()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            pause = PAUSE
            while True:
                time.sleep(pause)
                began = time.monotonic()
                with self._lock:
                    if self._change is None:
                        break
                    if self._change.stopped_at is not None or self._change.is_too_much():
                        self._stop(self._change, began)
                pause = max(PAUSE, SCAN_SHARE * (time.monotonic() - began))

    def _stop(self, change: _Change, now: float) -> None:
        change.stopped_at = change.stopped_at or now
        self.has_stopped = True
        change.connection.interrupt()
        if now - change.stopped_at > change.grace():
            self._end_process()

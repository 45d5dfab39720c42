"""Gives pages that a SQLite file does not use back to the disk, a portion at a time (blocking).

What was deleted stays in the file else, where nobody but this file can use its room. See
https://www.sqlite.org/pragma.html#pragma_incremental_vacuum.
"""

from __future__ import annotations

import logging
import sqlite3
import time

log = logging.getLogger(__name__)

INCREMENTAL = 2  # of `PRAGMA auto_vacuum`: unused pages leave the file when that is asked for
MAX_REWRITTEN_BYTES = 256 * 1024 * 1024  # size of an older file that is rewritten, in memory
KEPT_PAGES = 4096  # unused pages that a file keeps: they are soon used again
GIVEN_PAGES = 1024  # pages that are given back at once
GIVE_SECONDS = 0.25  # seconds between two portions
RETRY_SECONDS = 60.0  # seconds after one that failed, on a full disk for one


def let_file_shrink(connection: sqlite3.Connection) -> None:
    """Prepares a new file, which has no write-ahead log yet. Raises sqlite3.Error."""
    connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")


def rewrite_older(connection: sqlite3.Connection) -> None:
    """Rewrites a file once that was made without `let_file_shrink`, unless it is too large.

    Where the disk has no room for that it stays as it is. Raises sqlite3.Error.
    """
    sizes = ("PRAGMA page_count", "PRAGMA page_size", "PRAGMA auto_vacuum")
    pages, page_size, mode = (connection.execute(size).fetchone()[0] for size in sizes)
    if mode == INCREMENTAL or pages * page_size > MAX_REWRITTEN_BYTES:
        return
    try:
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        log.warning("the database keeps its unused pages", extra={"error": str(error)})


class UnusedPages:
    """Looks now and then how many pages of a file are unused, in the thread that writes to it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._next_look = 0.0
        self.are_many = False  # so that the next portion is to be given back soon

    def give_back(self) -> None:
        """Gives a portion back, where there are many and the last portion was not just now."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + GIVE_SECONDS
        self.are_many = False
        try:
            before = self._count()
            if before < KEPT_PAGES:
                return
            # It works while its rows are fetched, which have no columns: only a script gets all.
            self._connection.executescript(f"PRAGMA incremental_vacuum({GIVEN_PAGES})")
            self.are_many = KEPT_PAGES <= self._count() < before
        except sqlite3.Error as error:
            log.warning("unused pages stay in the file", extra={"error": str(error)})
            self._next_look = time.monotonic() + RETRY_SECONDS

    def _count(self) -> int:
        pages: int = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return pages

"""Opens the database of a data directory, unless it is lost: missing, empty, or another's.

What lies in the directory must not be taken for garbage then, so that nothing is changed, and the
operator is told what to do.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from era_kernels.errors import StartError, StorageFailed
from era_kernels.storage import pending_removals, r2_table
from era_kernels.storage.blobs import FOLDERS, BlobDirectory
from era_kernels.storage.data_directory import DataDirectory
from era_kernels.storage.database import Database, ignore_report
from era_kernels.storage.group_commit import TransactionReport
from era_kernels.storage.lost_and_found import LostAndFound
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.unfinished_marks import is_unfinished
from era_kernels.storage.workspaces import own_directories


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a data directory beside the database, and is not about to be removed."""

    sessions: int
    objects: int
    databases: int
    has_more: bool  # a log of the database's last writes, or the server's secret

    def __str__(self) -> str:
        counts = (
            (self.sessions, "directories of sessions (in sessions/)"),
            (self.objects, "objects (in r2/)"),
            (self.databases, "databases of D1 (in d1/)"),
        )
        named = [f"{count} {what}" for count, what in counts if count]
        return " and ".join(named) or "what a server left that had a database"

    def __bool__(self) -> bool:
        return bool(self.sessions or self.objects or self.databases or self.has_more)


@contextmanager
def damage_errors(database: Path) -> Iterator[None]:
    """Raises StartError, which tells what to do, for a database that fails while a server starts.

    Errors with a cause and a hint of their own, such as a full disk, are left as they are.
    """
    try:
        yield
    except StorageFailed as error:
        if type(error) is not StorageFailed:
            raise
        raise StartError(
            f"The database {database} is damaged ({error.message}): restore it from a backup, or "
            "choose another directory with --data-dir."
        ) from error


async def open_database(
    directory: DataDirectory,
    on_transaction: TransactionReport = ignore_report,
    make_room: Callable[[], None] | None = None,
) -> Database:
    """Opens the database of a locked data directory, made where nothing is stored yet.

    Raises StartError where the database is lost, or as `Database.open` does.
    """
    if not _has_content(directory.database):
        found = await asyncio.to_thread(_find_all, directory)
        if found:
            what = "is empty" if directory.database.exists() else "is missing"
            raise _lost_error(directory, what, found)
    database = await Database.open(directory.database, MIGRATIONS, on_transaction, make_room)
    try:
        with damage_errors(directory.database):
            unknown = await database.read(partial(_find_if_all_unknown, directory))
        if unknown:
            raise _lost_error(directory, "knows none of what is there", unknown)
    except BaseException:
        await database.aclose()
        raise
    return database


async def set_aside(directory: DataDirectory) -> tuple[int, int]:
    """Moves what the database of a locked data directory does not know to `lost+found`.

    A database that is missing or empty is made anew. Returns the numbers of sessions' directories
    and of objects. Raises StartError, StorageFailed.
    """
    if not _has_content(directory.database):
        await asyncio.to_thread(_set_database_aside, directory)
    database = await Database.open(directory.database, MIGRATIONS)
    try:
        return await database.read(partial(_set_unknown_aside, directory))
    finally:
        await database.aclose()


def _lost_error(directory: DataDirectory, what: str, found: Found) -> StartError:
    return StartError(
        f"The database {directory.database} {what}, while the data directory {directory.path} "
        f"holds {found}: put the database back, for example from a backup, or run `era-kernels "
        f"set-aside --data-dir {directory.path}`, which moves what the database does not know to "
        f"{directory.lost_and_found} and removes nothing."
    )


# ---------------------------------------------------------------- looking, in a thread


def _has_content(path: Path) -> bool:
    """Returns whether a file is there and not empty. Raises StartError."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StartError(f"The database {path} cannot be used ({error.strerror}).") from error


def _find_all(directory: DataDirectory) -> Found:
    """Counts all that a database should know."""
    wal = directory.database.with_name(f"{directory.database.name}-wal")
    blobs = BlobDirectory(directory.objects, directory.unlink_lock)
    return Found(
        sessions=len(own_directories(directory.sessions)),
        objects=sum(len(blobs.list(folder)) for folder in FOLDERS),
        databases=len(list(directory.d1.glob("*.db"))),
        has_more=_has_content(wal) or _has_content(directory.secret),
    )


def _find_if_all_unknown(directory: DataDirectory, connection: sqlite3.Connection) -> Found | None:
    """Counts what lies there when the database knows none of it; None when it knows anything.

    What is about to be made or removed counts for nothing: a crash may leave only that.
    """
    known = {name for (name,) in connection.execute("SELECT directory FROM sessions")}
    names = set(own_directories(directory.sessions)) - pending_removals.select(
        pending_removals.SESSION, connection
    )
    if names & known:
        return None
    sessions = [name for name in names if not is_unfinished(directory.sessions / name)]
    blobs = 0
    for there, named in _blobs(directory, connection):
        if there & named:
            return None
        blobs += len(there)
    found = Found(len(sessions), blobs, 0, False)
    return found or None


def _blobs(
    directory: DataDirectory, connection: sqlite3.Connection
) -> Iterator[tuple[set[str], set[str]]]:
    """Yields, folder by folder, the blobs that are there to stay, and those that rows name."""
    blobs = BlobDirectory(directory.objects, directory.unlink_lock)
    garbage = pending_removals.select(pending_removals.BLOB, connection)
    with suppress(OSError):
        garbage |= blobs.unfinished.names()
    for folder in FOLDERS:
        named = r2_table.blobs_in(folder, connection)
        yield blobs.list(folder) - (garbage - named), named


# ---------------------------------------------------------------- moving, in a thread


def _set_database_aside(directory: DataDirectory) -> None:
    """Moves what is left of a lost database: SQLite would remove its log. Raises StartError."""
    place = LostAndFound(directory.lost_and_found)
    for end in ("", "-wal", "-shm", "-journal"):
        file = directory.database.with_name(f"{directory.database.name}{end}")
        if file.exists() and not place.take(file):
            raise StartError(f"The file {file} cannot be moved to {place.path}.")


def _set_unknown_aside(directory: DataDirectory, connection: sqlite3.Connection) -> tuple[int, int]:
    place = LostAndFound(directory.lost_and_found)
    known = {name for (name,) in connection.execute("SELECT directory FROM sessions")}
    known |= pending_removals.select(pending_removals.SESSION, connection)
    sessions = sum(
        place.take(directory.sessions / name)
        for name in sorted(set(own_directories(directory.sessions)) - known)
    )
    blobs = BlobDirectory(directory.objects, directory.unlink_lock)
    garbage = pending_removals.select(pending_removals.BLOB, connection)
    objects = sum(
        place.take(blobs.path(blob))
        for folder in FOLDERS
        for blob in sorted(blobs.list(folder) - r2_table.blobs_in(folder, connection) - garbage)
    )
    return sessions, objects

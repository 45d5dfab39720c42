"""Copies a data directory, also while a server uses it, and brings such a copy back.

Everything here blocks. What KV, D1 and R2 held when a backup began is in it; blobs that its rows
name stay for so long, because the backup shares a lock that unlinking needs.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from era_kernels.errors import Conflict, StartError, TooLarge
from era_kernels.models import now, to_iso
from era_kernels.safe_fs.copy import TreeCopier
from era_kernels.safe_fs.openat import sync_file_system
from era_kernels.safe_fs.tree import closing_fd
from era_kernels.safe_fs.usage import max_copy_bytes
from era_kernels.storage import content_types
from era_kernels.storage.blobs import BlobDirectory, open_lock
from era_kernels.storage.data_directory import DataDirectory
from era_kernels.storage.error_mapping import FOREIGN_ERRORS, to_domain_error

log = logging.getLogger(__name__)

MANIFEST = "backup.json"  # written last: a backup without it is not whole
FORMAT = 1  # of backups; a higher one is refused
BUSY_SECONDS = 30.0  # seconds that a copy of a database waits for others

_ALLOWED_IN_EMPTY = frozenset({"lock"})  # what a directory has that was only locked
# Names that the server gives to files. A backup may come from others, and its rows may name files
# outside of it.
_BLOB_NAME = re.compile(r"[0-9a-f]{32}")
_SESSION_NAME = re.compile(r"[0-9a-f]{16}")
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# Takes what is copied, how many of it are done, and how many there are.
Report = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds.

    `lost_objects` had no bytes, `partial_sessions` could not be whole; `damaged_databases` of D1
    are not counted as databases, and copied as they are where they are files.
    """

    objects: int
    databases: int
    sessions: int
    lost_objects: int = 0
    partial_sessions: int = 0
    damaged_databases: int = 0


def back_up(source: Path, target: Path, report: Report) -> Contents:
    """Copies the data directory `source` into the empty or missing directory `target`.

    Directories of sessions are copied as they are found: code may change them meanwhile. Raises
    StartError, StorageFailed, InsufficientStorage.
    """
    source, target = source.absolute(), target.absolute()
    with _domain_errors():
        if not (source / "era.db").is_file():
            raise StartError(
                f"There is no data directory at {source}: name the server's with --data-dir."
            )
        if target.is_relative_to(source):
            raise StartError(f"A backup cannot lie in the data directory {source} itself.")
        _make_empty(target, "back up into another one")
        old, new = DataDirectory.unlocked(source), DataDirectory.unlocked(target)
        with closing_fd(open_lock(old.unlink_lock)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            _copy_database(old.database, new.database)
            databases, damaged = _copy_databases(old.d1, new.d1, report)
            objects, lost = _copy_blobs(old, new, report)
        sessions, partial = _copy_sessions(old, new, report)
        if _is_file(old.secret):
            _copy_file(old.secret, new.secret)
        contents = Contents(objects, databases, sessions, lost, partial, damaged)
        _finish(target, contents)
    return contents


def restore(source: Path, target: Path, report: Report) -> Contents:
    """Makes the empty or missing directory `target` a data directory with all that a backup holds.

    Raises StartError, StorageFailed, InsufficientStorage.
    """
    source, target = source.absolute(), target.absolute()
    with _domain_errors():
        _read_manifest(source)
        _make_empty(target, "restore into another one with --data-dir, or move its content away")
        with closing(DataDirectory.open(target)) as new:
            old = DataDirectory.unlocked(source)
            databases, damaged = _copy_databases(old.d1, new.d1, report)
            objects, lost = _copy_blobs(old, new, report, old.database)
            sessions, partial = _copy_sessions(old, new, report, old.database)
            if _is_file(old.secret):
                _copy_file(old.secret, new.secret)
            _sync(target)
            _copy_database(old.database, new.database)  # last: before, there is nothing to serve
            _sync(target)
    return Contents(objects, databases, sessions, lost, partial, damaged)


@contextmanager
def _domain_errors() -> Iterator[None]:
    try:
        yield
    except FOREIGN_ERRORS as error:
        raise to_domain_error(error) from error


def _make_empty(directory: Path, advice: str) -> None:
    """Makes a directory, or checks that nothing is in it. Raises StartError, OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = {entry.name for entry in directory.iterdir()} - _ALLOWED_IN_EMPTY
    if found == {"sessions"} and not any((directory / "sessions").iterdir()):
        return
    if found:
        raise StartError(f"The directory {directory} is not empty: {advice}.")
    directory.chmod(0o700)


# ---------------------------------------------------------------- databases


def _copy_database(source: Path, target: Path) -> None:
    """Copies a SQLite file as it is at one moment, while others write to it."""
    uri = f"{source.as_uri()}?mode=rw"  # readers of a WAL write to its index
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)  # in one step: a copy by pages begins anew at each write
    target.chmod(0o600)


def _copy_databases(source: Path, target: Path, report: Report) -> tuple[int, int]:
    """Copies the databases of D1; returns how many there are, and how many damaged ones."""
    files = sorted(source.glob("*.db")) if source.is_dir() else []
    if files:
        target.mkdir(mode=0o700)
    count = damaged = 0
    for number, file in enumerate(files):
        report("databases", number, len(files))
        try:
            if _is_file(file) and _copy_database_or_bytes(file, target / file.name):
                count += 1
            else:
                damaged += 1
                log.warning("a database is damaged", extra={"file": file.name})
        except (sqlite3.OperationalError, FileNotFoundError):
            if file.exists():
                raise
    return count, damaged


def _copy_database_or_bytes(source: Path, target: Path) -> bool:
    """Copies a SQLite file; a damaged one as it is, and then returns False."""
    try:
        _copy_database(source, target)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _DAMAGED:
            raise
        _copy_file(source, target)
        return False
    return True


def _names(database: Path, table: str, column: str, pattern: re.Pattern[str]) -> list[str]:
    """Returns names of files in a copied database, none where an older one has no such table.

    Raises StartError for a name that no server gives.
    """
    names = _column(database, table, column)
    if not all(isinstance(name, str) and pattern.fullmatch(name) for name in names):
        raise StartError(
            f"The table {table} names files that no server has made: nothing of it is copied."
        )
    return names


def _column(database: Path, table: str, column: str) -> list[Any]:
    """Returns a column of a copied database, empty where an older one has no such table."""
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
        ).fetchone():
            return []
        return [value for (value,) in connection.execute(f"SELECT {column} FROM {table}")]


# ---------------------------------------------------------------- blobs


def _copy_blobs(
    old: DataDirectory, new: DataDirectory, report: Report, database: Path | None = None
) -> tuple[int, int]:
    """Links (else copies) the blobs that rows of the copied database name.

    Returns how many there are, and how many of the objects have none.
    """
    names = _names(database or new.database, "r2_objects", "blob", _BLOB_NAME)
    source = BlobDirectory(old.objects, old.unlink_lock)
    target = BlobDirectory(new.objects, new.unlink_lock)
    lost, made = 0, set[Path]()
    for number, name in enumerate(names):
        report("objects", number, len(names))
        folder = target.path(name).parent
        if folder not in made:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.add(folder)
        try:
            if _is_file(source.path(name)):
                _link_or_copy(source.path(name), target.path(name))
            else:
                lost += 1
        except FileNotFoundError:
            lost += 1
    if names:
        new.objects.chmod(0o700)
    return len(names) - lost, lost


def _link_or_copy(source: Path, target: Path) -> None:
    """Makes a second name of a file that is never changed, or a copy on another file system."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without links, or too many of them
        _copy_file(source, target)


def _is_file(path: Path) -> bool:
    """Returns whether there is a regular file, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _copy_file(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    shutil.copymode(source, target)


# ---------------------------------------------------------------- sessions


def _copy_sessions(
    old: DataDirectory, new: DataDirectory, report: Report, database: Path | None = None
) -> tuple[int, int]:
    """Copies the directories that rows name; returns their number, and that of partial ones."""
    names = _names(database or new.database, "sessions", "directory", _SESSION_NAME)
    new.sessions.mkdir(mode=0o700, exist_ok=True)
    partial = 0
    if not names or not old.sessions.is_dir():
        return 0, 0
    with (
        closing_fd(os.open(old.sessions, _DIRECTORY_FLAGS)) as source,
        closing_fd(os.open(new.sessions, _DIRECTORY_FLAGS)) as target,
    ):
        for number, name in enumerate(names):
            report("sessions", number, len(names))
            (new.sessions / name).mkdir(mode=0o700)
            max_bytes = max_copy_bytes(old.sessions / name)
            copier = TreeCopier(lambda: False, max_bytes, copy_attributes=content_types.copy)
            try:
                copier.copy(source, target, name)
            except (TooLarge, Conflict) as error:  # code must not keep others from a backup
                extra = {"directory": name, "why": error.message}
                log.warning("a session could not be copied whole", extra=extra)
                partial += 1
    return len(names), partial


# ---------------------------------------------------------------- the end


def _finish(target: Path, contents: Contents) -> None:
    """Makes the backup durable, and then says that it is whole."""
    _sync(target)
    manifest = {
        "format": FORMAT,
        "created_at": to_iso(now()),
        "objects": contents.objects,
        "databases": contents.databases,
        "sessions": contents.sessions,
        "lost_objects": contents.lost_objects,
        "partial_sessions": contents.partial_sessions,
        "damaged_databases": contents.damaged_databases,
    }
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    _sync(target)


def _read_manifest(source: Path) -> None:
    """Raises StartError for what is no whole backup of this version or an older one."""
    manifest: Any = None
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        manifest = json.loads((source / MANIFEST).read_text("utf-8"))
    is_whole = isinstance(manifest, dict) and isinstance(manifest.get("format"), int)
    if not is_whole or not _is_file(DataDirectory.unlocked(source).database):
        raise StartError(
            f"There is no whole backup at {source}: it has no {MANIFEST}, or no database."
        )
    if manifest["format"] > FORMAT:
        raise StartError(f"The backup at {source} was made by a newer version: use that one.")


def _sync(directory: Path) -> None:
    with closing_fd(os.open(directory, _DIRECTORY_FLAGS)) as descriptor:
        sync_file_system(descriptor)

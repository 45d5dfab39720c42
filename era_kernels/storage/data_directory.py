"""Opens the data directory, which holds all that is stored, and locks out a second server."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.storage import lost_and_found
from era_kernels.storage.disk_room import SPARE_INODES
from era_kernels.storage.error_mapping import full_disk_error
from era_kernels.storage.new_data_directory import NewDataDirectory

# What a data directory may hold. On a file system of its own it has the lost+found of fsck(8).
OWN_NAMES = frozenset(
    {
        "lock", "unlink.lock", "secret", "secret.new", "ballast", SPARE_INODES,
        "era.db", "era.db-wal", "era.db-shm", "era.db-journal",
        "sessions", "incoming", "d1", "r2", "environments", lost_and_found.DIRECTORY,
    }
)  # fmt: skip
_SQLITE_MAGIC = b"SQLite format 3\0"


class DirectoryInUse(StartError):
    """Another process holds the lock of the data directory."""


class DataPaths:
    """Names what lies in a data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "era.db"  # the SQLite file
        self.secret = path / "secret"  # a copy of the database does not include it
        self.sessions = path / "sessions"  # the directories of all sessions
        self.incoming = path / "incoming"  # unfinished uploads, which no code in a session can see
        self.d1 = path / "d1"  # D1's databases, one file for each namespace
        self.objects = path / "r2"  # the bytes of R2's objects
        self.lost_and_found = path / lost_and_found.DIRECTORY  # what the database does not know
        # A backup locks this file so that no blob is unlinked meanwhile.
        self.unlink_lock = path / "unlink.lock"


class DataDirectory(DataPaths):
    """Holds the lock of a data directory until it is closed."""

    def __init__(self, path: Path, lock: int, made: NewDataDirectory | None = None) -> None:
        super().__init__(path)
        self._lock = lock
        self._made = made

    @classmethod
    def open(cls, path: Path) -> DataDirectory:
        """Makes the directory where it is missing, and locks it (blocking).

        Raises StartError when it cannot be used, DirectoryInUse when another server uses it;
        nothing has changed then.
        """
        path = path.absolute()
        try:
            if os.path.lexists(path):
                _check_not_foreign(path)
            made = NewDataDirectory(path)
        except OSError as error:
            raise _unusable_error(path, error) from error
        directory = cls(path, -1, made)
        try:
            directory._take_lock()
        except BlockingIOError as error:
            directory.close()
            raise DirectoryInUse(
                f"Another server uses the data directory {path}: stop it, or choose another "
                "directory with --data-dir."
            ) from error
        except OSError as error:
            directory.undo()
            directory.close()
            raise _unusable_error(path, error) from error
        return directory

    def _take_lock(self) -> None:
        """Locks the directory, then makes it private. Raises OSError."""
        assert self._made is not None
        path = self.path / "lock"
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._made.note_made(path.name)
        except FileExistsError:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            is_current = os.path.samestat(path.lstat(), os.fstat(self._lock))
        except FileNotFoundError:
            is_current = False
        if not is_current:
            raise BlockingIOError  # a start that failed has just removed it, and others may start
        self._made.note_names()
        self.path.chmod(0o700)
        os.ftruncate(self._lock, 0)  # the address of an earlier server
        self.sessions.mkdir(mode=0o700, exist_ok=True)

    def undo(self) -> None:
        """Takes back what this start has made, where it fails; the database must be closed.

        What was there before stays, and so does what is mounted there since.
        """
        if self._made is not None:
            self._made.undo()

    @classmethod
    def unlocked(cls, path: Path) -> DataDirectory:
        """Returns the paths of a directory that others may be using, without its lock."""
        return cls(path.absolute(), -1)

    def close(self) -> None:
        """Releases the lock; a second call is fine."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)
        if self._made is not None:
            self._made.close()


def note_server_url(path: Path, url: str) -> None:
    """Notes the address of the server that holds the lock of a data directory (blocking)."""
    (path / "lock").write_text(url, "utf-8")


def server_url(path: Path) -> str | None:
    """Returns the address of the server that holds the lock, None when it has none yet."""
    return (path / "lock").read_text("utf-8") or None


def _check_not_foreign(path: Path) -> None:
    """Refuses a directory of somebody else, which would be made private by mistake.

    Raises StartError, OSError.
    """
    database = path / "era.db"
    if database.is_file():
        with database.open("rb") as file:
            is_ours = file.read(len(_SQLITE_MAGIC)) in (b"", _SQLITE_MAGIC)
        if is_ours:
            return
        raise StartError(
            f"The database {database} is damaged, or not this server's: restore it from a backup, "
            "or choose another directory with --data-dir."
        )
    names = {entry.name for entry in path.iterdir()}
    if names >= {"lock", "sessions"}:  # it has lost its database, and others have put files there
        return
    foreign = sorted(names - OWN_NAMES)
    if foreign:
        raise StartError(
            f"The directory {path} holds files that are not this server's, such as "
            f"{foreign[0]!r}: choose an empty one, or one that does not exist, with --data-dir."
        )


def _unusable_error(path: Path, error: OSError) -> StartError:
    existing = next(one for one in (path, *path.parents) if one.exists())
    return full_disk_error(existing, error) or StartError(
        f"The data directory {path} cannot be used ({error.strerror}): "
        "make it a directory that this user may write to, or choose another with --data-dir."
    )

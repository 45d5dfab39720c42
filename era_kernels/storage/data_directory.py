"""Opens the data directory, which holds all that is stored, and locks out a second server."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from era_kernels.errors import StartError


class DirectoryInUse(StartError):
    """Another process holds the lock of the data directory."""


class DataDirectory:
    """Holds the lock of a data directory until it is closed."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> DataDirectory:
        """Makes the directory where it is missing, and locks it (blocking).

        Raises StartError when it cannot be used, DirectoryInUse when another server uses it.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_not_foreign(path)
            path.chmod(0o700)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable_error(path, error) from error
        directory = cls(path, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)  # the address of an earlier server
            directory.sessions.mkdir(mode=0o700, exist_ok=True)
        except BlockingIOError as error:
            directory.close()
            raise DirectoryInUse(
                f"Another server uses the data directory {path}: stop it, or choose another "
                "directory with --data-dir."
            ) from error
        except OSError as error:
            directory.close()
            raise _unusable_error(path, error) from error
        return directory

    @classmethod
    def unlocked(cls, path: Path) -> DataDirectory:
        """Returns the paths of a directory that others may be using, without its lock."""
        return cls(path.absolute(), -1)

    @property
    def database(self) -> Path:
        """The path of the SQLite file."""
        return self.path / "era.db"

    @property
    def secret(self) -> Path:
        """The path of the secret, which a copy of the database does not include."""
        return self.path / "secret"

    @property
    def sessions(self) -> Path:
        """The directory that holds the directories of all sessions."""
        return self.path / "sessions"

    @property
    def incoming(self) -> Path:
        """The directory of unfinished uploads, which no code in a session can see."""
        return self.path / "incoming"

    @property
    def d1(self) -> Path:
        """The directory of D1's databases, one file for each namespace."""
        return self.path / "d1"

    @property
    def objects(self) -> Path:
        """The directory of the bytes of R2's objects."""
        return self.path / "r2"

    @property
    def unlink_lock(self) -> Path:
        """The file that a backup locks so that no blob is unlinked meanwhile."""
        return self.path / "unlink.lock"

    def close(self) -> None:
        """Releases the lock; a second call is fine."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


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
    if any(path.iterdir()) and not (path / "lock").exists():
        raise StartError(
            f"The directory {path} holds files that are not this server's: choose an empty one, "
            "or one that does not exist, with --data-dir."
        )


def _unusable_error(path: Path, error: OSError) -> StartError:
    return StartError(
        f"The data directory {path} cannot be used ({error.strerror}): "
        "make it a directory that this user may write to, or choose another with --data-dir."
    )

"""Makes a data directory where it is missing, and takes back what a failed start made there."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from era_kernels.storage.disk_room import MAX_SPARE_INODES, SPARE_INODES

# What a start makes, the content of a directory before it. A directory that is not empty stays.
_MADE_FILES = (
    "era.db-wal",
    "era.db-shm",
    "era.db",
    "secret.new",
    "secret",
    "unlink.lock",
    "lock",
    "ballast",
    *(f"{SPARE_INODES}/{number}" for number in range(MAX_SPARE_INODES)),
)
_MADE_DIRECTORIES = (
    SPARE_INODES,
    "r2/incoming",
    "r2/unfinished",
    "r2",
    "incoming",
    "sessions",
    "d1",
)


class NewDataDirectory:
    """Holds a directory, and remembers what was there before this start."""

    def __init__(self, path: Path) -> None:
        """Makes the directory and its parents where they are missing. Raises OSError."""
        self._path = path
        self._made: list[tuple[Path, os.stat_result]] = []
        self._descriptor = -1
        self._former_mode = 0
        self._former_names: set[str] | None = None  # unknown before the directory is locked
        self._made_names: set[str] = set()
        try:
            self._make(path)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._former_mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
        except OSError:
            self._remove_made()
            self.close()
            raise

    def _make(self, path: Path) -> None:
        missing = [one for one in (path, *path.parents) if not os.path.lexists(one)]
        for one in reversed(missing):
            with suppress(FileExistsError):  # made by another process just now
                one.mkdir(mode=0o700 if one == path else 0o777)
                self._made.append((one, one.lstat()))

    def note_made(self, name: str) -> None:
        """Notes the name of a file that this start, and no other process, has just made."""
        self._made_names.add(name)

    def note_names(self) -> None:
        """Notes what was there before, once the directory is locked. Raises OSError."""
        names = set(os.listdir(self._descriptor))  # noqa: PTH208
        self._former_names = names - self._made_names

    def undo(self) -> None:
        """Removes what this start made, and nothing that was there or that others put there.

        Before `note_names` was called, that is only what `note_made` was told. Whatever is mounted
        over the directory meanwhile is left alone. Never raises.
        """
        for name in self._new_files():
            with suppress(OSError):
                os.unlink(name, dir_fd=self._descriptor)
        for name in _MADE_DIRECTORIES:
            top = name.partition("/")[0]
            if self._former_names is not None and top not in self._former_names:
                with suppress(OSError):
                    os.rmdir(name, dir_fd=self._descriptor)
        with suppress(OSError):
            os.fchmod(self._descriptor, self._former_mode)
        self._remove_made()

    def _new_files(self) -> list[str]:
        former = self._former_names
        if former is None:
            return sorted(self._made_names)
        is_new = [name for name in _MADE_FILES if name.partition("/")[0] not in former]
        if "era.db" in former:  # the last writes of an older database may be there
            is_new = [name for name in is_new if not name.startswith("era.db")]
        return is_new

    def _remove_made(self) -> None:
        while self._made:
            path, made = self._made.pop()
            with suppress(OSError):
                if os.path.samestat(path.lstat(), made):
                    path.rmdir()

    def close(self) -> None:
        """Lets go of the directory; a second call is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

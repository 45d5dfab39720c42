"""Marks what is being made until its row is stored: a killed server's starts go by the marks.

Without a mark, what has no row is not garbage, but something that the database does not know.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from era_kernels.storage.threads import StorageThreads

log = logging.getLogger(__name__)

MARK = "unfinished"  # the file in a session's directory


class UnfinishedDirectories:
    """Makes sessions' directories that are marked, and unmarks them. `sessions` holds them all."""

    def __init__(self, sessions: Path, threads: StorageThreads) -> None:
        self._sessions = sessions
        self._threads = threads

    async def keep(self, directory: str) -> None:
        """Says that a session's row is stored, so that no start removes the directory."""
        await self._threads.run(self.unmark, directory)

    def keep_soon(self, directory: str) -> None:
        """Says the same and does not wait: with the row stored, a start keeps the directory."""
        self._threads.submit_detached(self.unmark, directory)

    # ------------------------------------------------------------ in a thread

    def create(self, directory: str, parts: Sequence[str]) -> None:
        """Makes a directory with its parts, marked before it has its name. Raises OSError.

        It goes on with what an earlier call left that was cut short.
        """
        new = self._sessions / f"new-{directory}"
        new.mkdir(mode=0o700, exist_ok=True)
        (new / MARK).touch(mode=0o600)
        for part in parts:
            (new / part).mkdir(mode=0o700, exist_ok=True)
        new.rename(self._sessions / directory)

    def unmark(self, directory: str) -> None:
        """Removes the mark; a failure is logged, for at a start the row is what counts."""
        try:
            (self._sessions / directory / MARK).unlink(missing_ok=True)
        except OSError as error:
            extra = {"directory": directory, "why": error.strerror}
            log.warning("the directory of a session stays marked as unfinished", extra=extra)


def is_unfinished(session_directory: Path) -> bool:
    """Returns whether a session's directory is marked (blocking)."""
    return os.path.lexists(session_directory / MARK)


class UnfinishedBlobs:
    """Marks blobs by empty files of their names in a directory; every method blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self, blob: str) -> None:
        """Marks a blob that is about to come. Raises OSError."""
        self._path.mkdir(mode=0o700, exist_ok=True)
        (self._path / blob).touch(mode=0o600)

    def unmark(self, blob: str) -> None:
        """Removes the mark, where there is one; a failure is logged, as for directories."""
        try:
            (self._path / blob).unlink(missing_ok=True)
        except OSError as error:
            extra = {"blob": blob, "why": error.strerror}
            log.warning("a blob stays marked as unfinished", extra=extra)

    def names(self) -> set[str]:
        """Returns the names of all marked blobs. Raises OSError."""
        with suppress(FileNotFoundError):
            return {entry.name for entry in os.scandir(self._path)}
        return set()

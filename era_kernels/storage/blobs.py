"""Keeps blobs: files with random names that are never changed, and unlinked when no backup runs."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock

from era_kernels.safe_fs.tree import closing_fd
from era_kernels.storage import lost_and_found, uploads
from era_kernels.storage.lost_and_found import LostAndFound
from era_kernels.storage.unfinished_marks import UnfinishedBlobs

log = logging.getLogger(__name__)

FOLDERS = [f"{number:02x}" for number in range(256)]


class BlobDirectory:
    """Names, adds and unlinks the blobs below `root`; every method but `path` blocks.

    A backup holds a shared lock on the file `unlink_lock`: until it ends, every blob that it may
    have to copy stays.
    """

    def __init__(self, root: Path, unlink_lock: Path) -> None:
        self.incoming = root / "incoming"  # unfinished uploads
        self._root = root
        self.lost_and_found = LostAndFound(root.parent / lost_and_found.DIRECTORY)
        self.unfinished = UnfinishedBlobs(root / "unfinished")
        self._unlink_lock = unlink_lock
        self._waiting: set[str] = set()
        self._durable_folders: set[Path] = set()
        self._lock = Lock()

    @property
    def has_waiting(self) -> bool:
        """True while blobs wait for the end of a backup to be unlinked."""
        return bool(self._waiting)

    def path(self, blob: str) -> Path:
        """Returns the path of a blob."""
        return self._root / blob[:2] / blob

    def prepare(self) -> None:
        """Makes the directories, and removes the unfinished uploads of a former server."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        uploads.remove_unfinished(self.incoming)

    def add(self, temporary: Path) -> str:
        """Makes a whole and durable file a blob, durably, and returns the blob's name.

        It is marked as unfinished, until its row is stored.
        """
        blob = secrets.token_hex(16)
        path = self.path(blob)
        self._ensure_folder(path.parent)
        self.unfinished.mark(blob)
        temporary.rename(path)
        _sync(path.parent)
        return blob

    def unlink(self, blobs: Iterable[str]) -> set[str]:
        """Unlinks blobs, and those that still wait; while a backup runs, lets them all wait.

        Returns those that are gone.
        """
        gone = set[str]()
        with self._lock:
            self._waiting.update(blobs)
            if not self._waiting:
                return gone
            with closing_fd(open_lock(self._unlink_lock)) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return gone
                for blob in self._take_waiting():
                    try:
                        self.path(blob).unlink(missing_ok=True)
                        self.unfinished.unmark(blob)
                        gone.add(blob)
                    except OSError as error:
                        log.warning("a blob could not be unlinked", extra={"error": str(error)})
        return gone

    def list(self, folder: str) -> set[str]:
        """Returns the blobs in one of `FOLDERS`."""
        try:
            return {entry.name for entry in os.scandir(self._root / folder)}
        except FileNotFoundError:
            return set()

    def _take_waiting(self) -> Iterator[str]:
        while self._waiting:
            yield self._waiting.pop()

    def _ensure_folder(self, folder: Path) -> None:
        """Makes a folder durable, once: what lies in it is lost if its own entry is."""
        with self._lock:
            if folder not in self._durable_folders:
                folder.mkdir(mode=0o700, exist_ok=True)
                _sync(self._root)
                self._durable_folders.add(folder)


def open_lock(path: Path) -> int:
    """Opens the lock of a data directory that a backup shares and `BlobDirectory.unlink` needs."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _sync(directory: Path) -> None:
    with closing_fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as descriptor:
        os.fsync(descriptor)

"""Stores the objects of R2: rows in the database, bytes in files whose names say nothing.

A row is committed when its bytes are whole and durable, and the bytes that it replaces are unlinked
after that: a crash leaves at most a blob without a row. The next start removes it where it was
being made or was to be unlinked, which is noted, and moves any other to `lost+found`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from era_kernels.errors import (
    EraError,
    InsufficientStorage,
    ObjectNotFound,
    StorageFailed,
    TooLarge,
)
from era_kernels.models import StorageQuotas, format_size, now
from era_kernels.storage import pending_removals, r2_table, uploads
from era_kernels.storage.blobs import FOLDERS, BlobDirectory
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.open_file import OpenFile
from era_kernels.storage.pending_removals import PendingRemovals
from era_kernels.storage.r2_table import Precondition, StoredObject, unconditional
from era_kernels.storage.threads import SerialExecutor, StorageThreads
from era_kernels.storage.uploads import Upload

log = logging.getLogger(__name__)

MAX_KEY = 1024  # bytes
THREADS = 4  # threads that read, and as many for uploads, which wait for the disk
UNLINK_RETRY_SECONDS = 1.0  # seconds between two looks whether a backup has ended
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_LOGGED = 20  # names of blobs in one line of the log


def check_key(key: str) -> None:
    """Raises TooLarge for a key that is too long."""
    if len(key.encode()) > MAX_KEY:
        raise TooLarge(f"A key may have {MAX_KEY} bytes of UTF-8.")


class R2Store:
    """Puts, reads, lists and deletes objects, each whole. `max_object`: bytes of one object.

    Keys are any text of 1 to `MAX_KEY` bytes of UTF-8, never names of files.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        unlink_lock: Path,
        quotas: StorageQuotas,
        max_object: int,
        check_room: Callable[[], None] = always_room,
    ) -> None:
        """`check_room` raises InsufficientStorage when nothing new is to be stored."""
        self._check_room = check_room
        self.max_object = max_object
        self._database = database
        self._blobs = BlobDirectory(directory, unlink_lock)
        self._quotas = quotas
        self._lost: set[str] = set()
        self._deleted = PendingRemovals(database, pending_removals.BLOB)
        self._threads = StorageThreads("object", THREADS)
        self._uploads = StorageThreads("object-upload", THREADS)
        self._unlinker = SerialExecutor(self._uploads)
        self._retry: asyncio.TimerHandle | None = None
        self._is_open = True

    async def sweep(self) -> None:
        """Tidies up, after a start, what a former server left, and looks for lost bytes."""
        await self._uploads.run(self._blobs.prepare)
        orphans, lost = await self._database.read(partial(_compare, self._blobs))
        deleted = await self._deleted.names()
        garbage, lost = await self._uploads.run(self._tidy_up, orphans, lost, deleted)
        self._deleted.forget_soon(deleted - garbage)
        if garbage:
            log.info("blobs without an object are removed", extra={"count": len(garbage)})
            self._unlink_soon(garbage)
        self._report_lost(lost)

    def _tidy_up(
        self, orphans: set[str], lost: set[str], deleted: set[str]
    ) -> tuple[set[str], set[str]]:
        """Sets aside orphans that are no garbage, and brings lost blobs back, in a thread.

        Returns the garbage, and the blobs that are still lost.
        """
        marked, place = self._blobs.unfinished.names(), self._blobs.lost_and_found
        garbage = orphans & (deleted | marked)
        for blob in marked - garbage:  # its row is stored, or it never came
            self._blobs.unfinished.unmark(blob)
        if count := sum(place.take(self._blobs.path(blob)) for blob in orphans - garbage):
            log.warning(
                "objects' bytes that the database does not know were set aside",
                extra={"count": count, "place": str(place.path)},
            )
        found = place.bring_back(self._blobs.path(blob) for blob in lost)
        return garbage, lost - {path.name for path in found}

    @property
    def lost_count(self) -> int:
        """How many objects have lost their bytes, as far as that was noticed."""
        return len(self._lost)

    async def find(self, namespace: str, key: str) -> StoredObject | None:
        """Returns an object, None where there is none. Raises StorageFailed."""
        return await self._database.read(partial(r2_table.find, namespace, key))

    async def list(
        self, namespace: str, prefix: str = "", limit: int = 1000, after: str | None = None
    ) -> tuple[list[StoredObject], bool]:
        """Returns objects sorted by the bytes of their keys, and whether there are more.

        `after` is the key behind which the list begins. Raises StorageFailed.
        """
        found = await self._database.read(
            partial(r2_table.select, namespace, prefix, limit + 1, after)
        )
        return found[:limit], len(found) > limit

    async def open(self, namespace: str, key: str) -> tuple[StoredObject, OpenFile]:
        """Opens an object, which stays readable when it is replaced or deleted meanwhile.

        The caller closes the file. Raises ObjectNotFound, StorageFailed.
        """
        last_blob = ""
        while True:
            found, descriptor = await self._database.read(
                partial(_open, self._blobs, namespace, key)
            )
            if found is None:
                raise ObjectNotFound(f"There is no object with this key in {namespace}.")
            if descriptor is not None:
                return found, OpenFile(descriptor, found.status, self._threads)
            if found.blob == last_blob:
                self._report_lost([found.blob])
                raise StorageFailed("The bytes of this object are lost.")
            last_blob = found.blob  # replaced since its row was read, or lost

    async def start_upload(
        self,
        namespace: str,
        key: str,
        size: int,
        precondition: Precondition = unconditional,
    ) -> Upload:
        """Starts an upload of `size` bytes (0: unknown), which the caller discards in the end.

        Raises TooLarge, QuotaExceeded, InsufficientStorage, StorageFailed, and what `precondition`
        does.
        """
        check_key(key)
        if size > self.max_object:
            raise TooLarge(f"An object may have {format_size(self.max_object)} (max_object).")
        await self._database.read(
            partial(r2_table.check_change, namespace, key, size, self._quotas, precondition)
        )
        self._check_room()
        temporary = self._blobs.incoming / secrets.token_hex(8)
        descriptor = await self._uploads.run(uploads.create_temporary, temporary)
        return Upload(
            temporary, descriptor, self._uploads, is_hashed=True, check_room=self._check_room
        )

    async def put(
        self,
        namespace: str,
        key: str,
        upload: Upload,
        content_type: str = "",
        custom_metadata: Mapping[str, str] | None = None,
        precondition: Precondition = unconditional,
    ) -> StoredObject:
        """Puts a whole upload in the place of an object. Durable when it returns.

        Of several puts at once the last commit wins. Raises QuotaExceeded, InsufficientStorage,
        StorageFailed, and what `precondition` does.
        """
        await upload.finish()
        blob = await upload.move(lambda temporary, descriptor: self._blobs.add(temporary))
        time = now()
        new = StoredObject(
            key, blob, upload.size, upload.md5, content_type, custom_metadata or {}, time, time
        )
        try:
            old = await self._database.write(
                partial(r2_table.put, namespace, new, self._quotas, precondition)
            )
        except EraError as error:
            # After any other failure the commit may stand after a crash: the next start will tell.
            if isinstance(error, InsufficientStorage) or not isinstance(error, StorageFailed):
                self._unlink_soon([blob])
            raise
        await self._uploads.run(self._blobs.unfinished.unmark, blob)
        if old is not None:
            self._unlink_soon([old.blob])
        return new

    async def delete(
        self, namespace: str, key: str, precondition: Precondition = unconditional
    ) -> bool:
        """Deletes an object, durably; returns False where there is none.

        Raises StorageFailed, InsufficientStorage, and what `precondition` does.
        """
        old = await self._database.write(
            partial(r2_table.delete, namespace, key, self._quotas, precondition)
        )
        if old is not None:
            self._unlink_soon([old.blob])
        return old is not None

    async def aclose(self) -> None:
        """Finishes all work that was begun; a second call is fine."""
        self._is_open = False
        if self._retry is not None:
            self._retry.cancel()
        for threads in (self._threads, self._uploads):
            await asyncio.to_thread(threads.close)

    def _report_lost(self, blobs: Iterable[str]) -> None:
        new = set(blobs) - self._lost
        if new:
            self._lost |= new
            names = sorted(new)[:MAX_LOGGED]
            log.error("objects lost their bytes", extra={"count": len(new), "blobs": names})

    def _unlink_soon(self, blobs: Iterable[str] = ()) -> None:
        """Unlinks blobs in a thread, at once or when no backup runs any more."""
        blobs = list(blobs)
        self._lost.difference_update(blobs)
        if self._is_open:
            self._unlinker.submit(self._blobs.unlink, blobs).add_done_callback(self._on_unlinked)

    def _on_unlinked(self, outcome: asyncio.Future[set[str]]) -> None:
        if not outcome.cancelled() and (error := outcome.exception()) is not None:
            log.warning("blobs could not be unlinked", extra={"error": str(error)})
        elif self._is_open and not outcome.cancelled():
            self._deleted.forget_soon(outcome.result())
        if self._is_open and self._blobs.has_waiting:
            if self._retry is not None:
                self._retry.cancel()
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(UNLINK_RETRY_SECONDS, self._unlink_soon)


# ---------------------------------------------------------------- in the database's threads


def _open(
    blobs: BlobDirectory, namespace: str, key: str, connection: sqlite3.Connection
) -> tuple[StoredObject | None, int | None]:
    """Returns an object and a descriptor of its bytes, None for what is not there."""
    found = r2_table.find(namespace, key, connection)
    if found is None:
        return None, None
    try:
        # No link is followed, and a pipe keeps nobody waiting: the server makes neither.
        return found, os.open(blobs.path(found.blob), _OPEN_FLAGS)
    except FileNotFoundError:
        return found, None


def _compare(blobs: BlobDirectory, connection: sqlite3.Connection) -> tuple[set[str], set[str]]:
    """Returns the blobs without an object, and the blobs of objects that are not there."""
    orphans, lost = set[str](), set[str]()
    for folder in FOLDERS:  # one at a time: there may be millions
        named, there = r2_table.blobs_in(folder, connection), blobs.list(folder)
        orphans |= there - named
        lost |= named - there
    return orphans, lost

"""Files on their way in: written out of all code's sight, until they are whole and safe on disk."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from era_kernels.storage import content_types
from era_kernels.storage.threads import SerialExecutor, StorageThreads

log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024  # bytes that are written in one step
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")


class Upload:
    """A file on its way in. Its writes are done one after the other, in threads."""

    def __init__(self, temporary: Path, descriptor: int, threads: StorageThreads) -> None:
        self.size = 0
        self._temporary = temporary
        self._descriptor = descriptor
        self._executor = SerialExecutor(threads)
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._writing: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Append. Returns when it may be called again: little is held in memory.

        Raises InsufficientStorage, StorageFailed.
        """
        self._pending.append(data)
        self._pending_size += len(data)
        self.size += len(data)
        if self._pending_size >= CHUNK_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        """Start to write what waits, when what was written before is written."""
        if self._writing is not None:
            await self._writing
        pending, self._pending, self._pending_size = self._pending, [], 0
        self._writing = self._executor.submit(_write_chunks, self._descriptor, pending)
        self._writing.add_done_callback(_ignore_error)

    async def finish(self, content_type: str) -> None:
        """All bytes, and what kind they are, are safe on disk.

        Raises InsufficientStorage, StorageFailed.
        """
        await self._flush()
        if self._writing is not None:
            await self._writing
        await self._executor.run(_sync, self._descriptor, content_type)

    async def move(self, function: Callable[[Path, int], T]) -> T:
        """Let the function put the file, by its path, in its place."""
        return await self._executor.run(function, self._temporary, self._descriptor)

    def discard(self) -> None:
        """Nothing is left of it, unless it was moved. A second call is fine; nobody waits."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._executor.submit(_discard, self._temporary, descriptor).add_done_callback(
                _ignore_error
            )


def create_temporary(temporary: Path) -> int:
    """A new file to write to (blocking)."""
    return os.open(temporary, _CREATE_FLAGS, 0o644)


def write_all(descriptor: int, data: bytes) -> None:
    """All of it (blocking)."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def remove_unfinished(directory: Path) -> None:
    """The directory stands, and nothing of a former server is in it (blocking)."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for left in directory.iterdir():
        if stat.S_ISREG(left.lstat().st_mode):
            log.info("an upload that was not finished is removed")
            left.unlink()


def _ignore_error(outcome: asyncio.Future[None]) -> None:
    """Who was to wait for it may be gone: what it raised is of no interest then."""
    if not outcome.cancelled():
        outcome.exception()


def _write_chunks(descriptor: int, pieces: list[bytes]) -> None:
    for piece in pieces:
        write_all(descriptor, piece)


def _sync(descriptor: int, content_type: str) -> None:
    content_types.store(descriptor, content_type)
    os.fsync(descriptor)


def _discard(temporary: Path, descriptor: int) -> None:
    os.close(descriptor)
    temporary.unlink(missing_ok=True)

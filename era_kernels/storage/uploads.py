"""Writes uploads where no code can see them, until they are whole and durable."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from era_kernels.storage import content_types
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.threads import SerialExecutor, StorageThreads
from era_kernels.storage.writing import write_all

log = logging.getLogger(__name__)

_NAME = re.compile("[0-9a-f]{16}")  # of an upload
CHUNK_BYTES = 512 * 1024  # bytes that are written at once
MAX_RUNNING = 3  # writes of one upload that are under way or wait for a thread
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")


class Upload:
    """A file that is being uploaded; threads write its bytes one chunk after the other.

    `is_hashed` computes the MD5 of its bytes on the way, in a thread beside the one that writes.
    """

    def __init__(
        self,
        temporary: Path,
        descriptor: int,
        threads: StorageThreads,
        *,
        is_hashed: bool = False,
        check_room: Callable[[], None] = always_room,
    ) -> None:
        """`check_room` raises InsufficientStorage when there is too little room for more."""
        self._check_room = check_room
        self.size = 0
        self._hash = hashlib.md5(usedforsecurity=False) if is_hashed else None
        self._temporary = temporary
        self._descriptor = descriptor
        self._executor = SerialExecutor(threads)
        self._hasher = SerialExecutor(threads)
        self._pending = bytearray()
        self._running: deque[list[asyncio.Future[None]]] = deque()

    @property
    def md5(self) -> str:
        """The MD5 of what was written, in hexadecimal digits; to be asked for after `finish`."""
        assert self._hash is not None
        return self._hash.hexdigest()

    def buffer(self, data: bytes) -> bool:
        """Appends data without waiting; returns False, and does nothing, when `write` is due."""
        if len(self._pending) + len(data) >= CHUNK_BYTES:
            return False
        self._pending += data
        self.size += len(data)
        return True

    async def write(self, data: bytes) -> None:
        """Appends data; returns when little of the upload is left in memory.

        Raises InsufficientStorage, StorageFailed.
        """
        self._pending += data
        self.size += len(data)
        if len(self._pending) >= CHUNK_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        """Starts to write the pending data; waits until few writes before it are under way."""
        self._check_room()
        await self._wait(MAX_RUNNING - 1)
        pending, self._pending = self._pending, bytearray()
        running = [self._executor.submit(write_all, self._descriptor, pending)]
        if self._hash is not None:
            running.append(self._hasher.submit(self._hash.update, pending))
        for future in running:
            future.add_done_callback(_ignore_error)
        self._running.append(running)

    async def _wait(self, max_running: int = 0) -> None:
        """Waits until at most so many writes are under way. Raises what one of them raised."""
        while len(self._running) > max_running:
            for future in self._running.popleft():
                await future

    async def finish(self, content_type: str = "") -> None:
        """Makes all bytes and the content type durable.

        Raises InsufficientStorage, StorageFailed.
        """
        await self._flush()
        await self._wait()
        await self._executor.run(_sync, self._descriptor, content_type)

    async def move(self, function: Callable[[Path, int], T]) -> T:
        """Calls a function, in a thread, that moves the file at a path (and descriptor) away."""
        return await self._executor.run(function, self._temporary, self._descriptor)

    def discard(self) -> None:
        """Removes the file unless it was moved; does not wait, and may be repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._executor.submit(_discard, self._temporary, descriptor).add_done_callback(
                _ignore_error
            )


def create_temporary(temporary: Path) -> int:
    """Creates a file to write to (blocking); returns its descriptor."""
    return os.open(temporary, _CREATE_FLAGS, 0o644)


def remove_unfinished(directory: Path) -> None:
    """Makes the directory where missing, and removes a former server's uploads (blocking).

    What has another name than an upload, or is no file, is somebody else's and stays.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    for file in directory.iterdir():
        if _NAME.fullmatch(file.name) and stat.S_ISREG(file.lstat().st_mode):
            log.info("an upload that was not finished is removed")
            file.unlink()


def _ignore_error(outcome: asyncio.Future[None]) -> None:
    """Marks an error as seen: the caller that would await it may be cancelled."""
    if not outcome.cancelled():
        outcome.exception()


def _sync(descriptor: int, content_type: str) -> None:
    content_types.store(descriptor, content_type)
    os.fsync(descriptor)


def _discard(temporary: Path, descriptor: int) -> None:
    os.close(descriptor)
    temporary.unlink(missing_ok=True)

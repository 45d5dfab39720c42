"""Reads one open file in chunks, whatever becomes of its path meanwhile."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime

from era_kernels.storage.threads import SerialExecutor, StorageThreads

CHUNK_BYTES = 512 * 1024  # bytes that are read at once


@dataclass(frozen=True, slots=True)
class FileStatus:
    """The status of a regular file: `size` in bytes; `etag` changes when the content does.

    `modified_at` has whole seconds. `content_type` is empty unless the file was opened.
    """

    size: int
    modified_at: datetime
    etag: str
    content_type: str = ""


class OpenFile:
    """Reads one file, which stays the same file also when its path is replaced or deleted."""

    def __init__(self, descriptor: int, status: FileStatus, threads: StorageThreads) -> None:
        self.status = status
        self._descriptor = descriptor
        self._executor = SerialExecutor(threads)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yields the bytes of a range; fewer if code truncates the file. Raises StorageFailed."""
        while start < stop:
            chunk = await self._executor.run(
                os.pread, self._descriptor, min(CHUNK_BYTES, stop - start), start
            )
            if not chunk:
                return
            start += len(chunk)
            yield chunk

    async def aclose(self) -> None:
        """Closes the file after reads that are under way, without waiting; may be repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._executor.submit(os.close, descriptor)

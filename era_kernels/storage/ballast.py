"""Keeps room on the disk for what must always work: deletions, the database, a start, a stop.

A file of some MiB, `ballast`, is given back when the disk is full, and made again when there is
room. Before the disk is as full as that, nothing new is stored.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from era_kernels.errors import InsufficientStorage
from era_kernels.models import default_disk_reserve, format_size

log = logging.getLogger(__name__)

MAX_BALLAST = 8 * 1024 * 1024  # bytes
BALLAST_SHARE = 16  # it takes at most this part of a small disk
FULL = 1024 * 1024  # bytes of free space below which the ballast is given back
INTERVAL = 0.25  # seconds between two looks at the disk


class DiskRoom:
    """The free space of the data directory's disk, and the ballast in it."""

    def __init__(self, directory: Path, reserve: int | None = 0) -> None:
        """`reserve`: bytes to be kept free; None for what `default_disk_reserve` says."""
        self._path = directory / "ballast"
        self._directory = directory
        self._reserve = reserve
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Gives the ballast back if the disk is full, makes it if not, and keeps doing so."""
        await asyncio.to_thread(self.adjust)
        self._thread = threading.Thread(target=self._run, name="era-ballast", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises InsufficientStorage when there is less free space than the reserve."""
        try:
            free, total = self._space()
        except OSError:  # what is to be written will tell
            return
        reserve = default_disk_reserve(total) if self._reserve is None else self._reserve
        if free < reserve:
            raise InsufficientStorage(
                f"The server's disk has less than {format_size(reserve)} left (disk_reserve), so "
                "nothing new is stored; deleting works.",
                hint="Delete files or sessions, or free disk space; nothing needs to be restarted.",
            )

    def adjust(self) -> None:
        """Gives the ballast back, or makes it again, by the free space that there is (blocking)."""
        with suppress(OSError):
            free, total = self._space()
            size = min(MAX_BALLAST, total // BALLAST_SHARE)
            if free < FULL:
                self._path.unlink()
                log.warning("the disk is full: the ballast was given back", extra={"free": free})
            elif free > 3 * size + FULL and self._size() < size:
                self._make(size)

    async def aclose(self) -> None:
        """Stops looking; the ballast stays for the next start. A second call is fine."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self.adjust()

    def _space(self) -> tuple[int, int]:
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def _size(self) -> int:
        """Returns the bytes of the ballast; 0 when there is none, or its making was cut short."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _make(self, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(descriptor)


def always_room() -> None:
    """Checks nothing, for stores whose disk nobody watches."""

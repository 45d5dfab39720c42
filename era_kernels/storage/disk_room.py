"""Keeps room on the disk for what must always work: deletions, the database, a start, a stop.

A file of some MiB, `ballast`, is given back when the disk is full, and made again when there is
room; so are the empty files in `spare_inodes`, some at a time, when no more files can be made.
Before the disk is as full as that, nothing new is stored.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from era_kernels.errors import InsufficientStorage
from era_kernels.models import default_disk_reserve, format_size
from era_kernels.safe_fs.free_space import free_and_total

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BALLAST = 8 * 1024 * 1024  # bytes
BALLAST_SHARE = 16  # it takes at most this part of a small disk
MARGIN_SHARE = 4  # of the reserve, which is left free beside it by what the server writes
FULL = 1024 * 1024  # bytes of free space below which the ballast is given back
INTERVAL = 0.25  # seconds between two looks at the disk
SPARE_INODES = "spare_inodes"  # their directory
MAX_SPARE_INODES = 256
SPARE_SHARE = 16  # they are at most this part of a small disk's inodes
FEW_INODES = 16  # free ones, below which so many more are given back at each look


class DiskRoom:
    """The free space of the data directory's disk, and the ballast in it."""

    def __init__(self, directory: Path, reserve: int | None = 0) -> None:
        """`reserve`: bytes to be kept free; None for what `default_disk_reserve` says."""
        self._path = directory / "ballast"
        self._directory = directory
        self._spare_inodes = _SpareInodes(directory / SPARE_INODES)
        self._reserve = reserve
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Gives the ballast back if the disk is full, makes it if not, and keeps doing so."""
        await asyncio.to_thread(self.adjust)
        self._thread = threading.Thread(target=self._run, name="era-ballast", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises InsufficientStorage when little more than the reserve is free.

        What the server itself writes stops ahead of it: else the next session whose code writes
        would be ended for what another one stored or printed.
        """
        try:
            free, total = free_and_total(os.statvfs(self._directory))
        except OSError:  # what is to be written will tell
            return
        least = self._least_free(total)
        if free < least:
            raise InsufficientStorage(
                f"The server's disk has less than {format_size(least)} left (disk_reserve and a "
                "quarter), so nothing new is stored; deleting works.",
                hint="Delete files or sessions, or free room on the disk (`df`, and `df -i`: free "
                "inodes count as their share); nothing needs to be restarted.",
            )

    def find_least_free(self) -> int:
        """Returns the bytes that what the server writes leaves free."""
        try:
            return self._least_free(free_and_total(os.statvfs(self._directory))[1])
        except OSError:
            return 0

    def adjust(self) -> None:
        """Gives the ballast back, or makes it again, by the free space that there is (blocking)."""
        with suppress(OSError):
            self._spare_inodes.adjust(os.statvfs(self._directory))
        with suppress(OSError):
            status = os.statvfs(self._directory)
            free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
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

    def _least_free(self, total: int) -> int:
        reserve = default_disk_reserve(total) if self._reserve is None else self._reserve
        return reserve + reserve // MARGIN_SHARE

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


class _SpareInodes:
    """Empty files in a directory, each of which keeps an inode."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_whole = False

    def adjust(self, status: os.statvfs_result) -> None:
        """Gives some back when hardly any is free, makes all again when many are. Raises OSError.

        Few at a time: who takes all that he can get is to be ended before none is left.
        """
        count = min(MAX_SPARE_INODES, status.f_files // SPARE_SHARE)
        if count and status.f_favail < FEW_INODES:
            self._give_back()
        elif not self._is_whole and status.f_favail > 3 * count + FEW_INODES:
            self._make(count)

    def _give_back(self) -> None:
        self._is_whole = False
        with os.scandir(self._directory) as entries:
            spare = [Path(entry.path) for entry in islice(entries, FEW_INODES)]
        for path in spare:
            path.unlink(missing_ok=True)
        if spare:
            log.warning("hardly an inode is free: some were given back", extra={"gave": len(spare)})

    def _make(self, count: int) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for number in range(count):
            (self._directory / str(number)).touch(mode=0o600)
        self._is_whole = True


async def write_with_room(
    write: Callable[[], Awaitable[T]], make_room: Callable[[], None] | None
) -> T:
    """Writes; on a full disk once more when `make_room` has given back what is kept for that.

    Raises what `write` does, InsufficientStorage also where None makes room.
    """
    try:
        return await write()
    except InsufficientStorage:
        if make_room is None:
            raise
    await asyncio.to_thread(make_room)
    return await write()


def always_room() -> None:
    """Checks nothing, for stores whose disk nobody watches."""


def none_to_leave() -> int:
    """Returns 0: nothing is kept free, for stores whose disk nobody watches."""
    return 0

"""Watches how much the file systems give away that sessions write to: one statvfs(3) for each."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from era_kernels.safe_fs.free_space import free_and_total
from era_kernels.safe_fs.usage import MIN_ENTRY_BYTES

# What one session can take in about two seconds.
FAST_BYTES = 8 << 30
FAST_INODES = 400_000


@dataclass(slots=True)
class FileSystem:
    """One file system, by its device number and a directory in it."""

    device: int
    directory: str
    free: int = 0  # bytes that sessions may still take; free inodes count as their share of all
    total: int = 0  # bytes
    may_fill_soon: bool = True  # one session could take all within two seconds
    _blocks: int | None = None  # free bytes at the last look
    _inodes: int = 0

    def look(self) -> int:
        """Returns the bytes taken since the last look (some microseconds). Raises OSError.

        What is given back does not count. An inode counts as much as an entry of the smallest
        size, as in `running_totals`.
        """
        status = os.statvfs(self.directory)
        blocks, inodes = status.f_bfree * status.f_frsize, status.f_ffree
        if (blocks, inodes) == (self._blocks, self._inodes):
            return 0
        taken = 0
        if self._blocks is not None:
            entries = max(0, self._inodes - inodes) * MIN_ENTRY_BYTES
            taken = max(0, self._blocks - blocks) + entries
        self._blocks, self._inodes = blocks, inodes
        self.free, self.total = free_and_total(status)
        self.may_fill_soon = self.free < FAST_BYTES or (status.f_files > 0 and inodes < FAST_INODES)
        return taken


class DiskSpace:
    """Watches the file systems of all sessions."""

    def __init__(self) -> None:
        self.file_systems: dict[int, FileSystem] = {}  # by device number
        self.taken = 0  # bytes that were taken of all of them since the first look

    def add(self, directories: Iterable[Path]) -> frozenset[int]:
        """Watches the file systems of these directories; returns their device numbers."""
        devices = set()
        for directory in directories:
            with suppress(OSError):
                device = directory.stat().st_dev
                devices.add(device)
                if device in self.file_systems:
                    continue
                # Directories of sessions go; that one's parent is a directory of the server.
                parent = directory.parent if directory.parent.stat().st_dev == device else directory
                self.file_systems[device] = FileSystem(device, os.fspath(parent))
        return frozenset(devices)

    def may_fill_soon(self, devices: Collection[int]) -> bool:
        """Returns whether one session could take all of one of these within two seconds."""
        found = (self.file_systems.get(device) for device in devices)
        return any(one is not None and one.may_fill_soon for one in found)

    def look(self) -> int:
        """Looks at all of them; returns the bytes taken since the last look.

        It forgets one whose directory is gone.
        """
        taken = 0
        for one in tuple(self.file_systems.values()):
            try:
                taken += one.look()
            except OSError:
                del self.file_systems[one.device]
        self.taken += taken
        return taken

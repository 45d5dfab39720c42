"""Measures the disk usage of a tree in small steps, while its owner may change the tree.

The walk goes from folder to folder by descriptors and follows no link, so that no rename leads it
out of the tree. Files that are moved meanwhile may be missed or counted twice.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ENTRIES_PER_STEP = 64  # entries between two totals
# An entry counts at least so much: a host may run out of inodes before it runs out of blocks.
MIN_ENTRY_BYTES = 4096
# Files of so many bytes are counted once, also those that are moved to where the walk comes later.
LARGE_BYTES = 64 * 1024
SLACK_BYTES = 64 * 1024 * 1024  # bytes that a copy may take in any case, as its trees may grow
_BLOCK = 512
_OWNER_READ = stat.S_IRUSR | stat.S_IXUSR
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """A folder on the way from the root to the one that is open."""

    name: str
    identity: tuple[int, int]
    unvisited: list[str] = field(default_factory=list)  # folders in it that are still to be entered


def running_totals(*roots: Path) -> Iterator[int]:
    """Yields running totals in bytes; the last is the whole (each step blocks briefly).

    A file of several names counts once, and each further name as an entry.
    """
    total = 0
    linked: set[tuple[int, int]] = set()  # files of several names, and large ones, so far
    for root in roots:
        total = yield from _add_tree(root, total, linked)


def max_copy_bytes(*roots: Path) -> int:
    """Returns how many bytes a copy of trees may take that code may be changing (blocking).

    It is twice what they hold: without a bound, code that moves files, or fills others, before the
    copy comes to them would have it take any disk.
    """
    (held,) = deque(running_totals(*roots), 1) or (0,)
    return 2 * held + SLACK_BYTES


def _add_tree(root: Path, total: int, linked: set[tuple[int, int]]) -> Generator[int, None, int]:
    """Adds up one tree; returns the new total."""
    try:
        folder = _open_directory(str(root), None)
    except OSError:
        return total
    try:
        levels = [_Level(str(root), _identity(folder))]
        total = yield from _add_entries(folder, levels[0].unvisited, total, linked)
        while levels:
            folder, entered = _go_to_next_folder(folder, levels)
            if entered:
                total = yield from _add_entries(folder, levels[-1].unvisited, total, linked)
        return total
    finally:
        os.close(folder)


def _add_entries(
    folder: int, folders: list[str], total: int, linked: set[tuple[int, int]]
) -> Generator[int, None, int]:
    """Adds up the entries of a folder, and lists the folders in it; returns the new total."""
    with suppress(OSError), os.scandir(folder) as entries:
        for number, entry in enumerate(entries, 1):
            with suppress(OSError):
                total += _size(_status(entry, folder), linked)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
            if number % ENTRIES_PER_STEP == 0:
                yield total
    yield total
    return total


def _size(status: os.stat_result, linked: set[tuple[int, int]]) -> int:
    """Returns the bytes that an entry adds."""
    size = max(MIN_ENTRY_BYTES, status.st_blocks * _BLOCK)
    if not stat.S_ISDIR(status.st_mode) and (status.st_nlink > 1 or size >= LARGE_BYTES):
        identity = status.st_dev, status.st_ino
        if identity in linked:
            return MIN_ENTRY_BYTES
        linked.add(identity)
    return size


def _status(entry: os.DirEntry[str], folder: int) -> os.stat_result:
    try:
        return entry.stat(follow_symlinks=False)
    except PermissionError:
        _grant_owner_read(folder)
        return entry.stat(follow_symlinks=False)


def _open_directory(name: str, parent: int | None) -> int:
    """Opens a folder to be read. Raises OSError."""
    try:
        return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
    except PermissionError:
        path_fd = os.open(name, os.O_PATH | _DIRECTORY_FLAGS, dir_fd=parent)
        try:
            _grant_owner_read(path_fd)
        finally:
            os.close(path_fd)
        return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)


def _grant_owner_read(folder: int) -> None:
    """Allows a folder's owner to read it; the owner is the server where code has its uid.

    Otherwise code could hide files by taking that right from itself. Raises OSError.
    """
    mode = stat.S_IMODE(os.fstat(folder).st_mode)
    os.chmod(f"/proc/self/fd/{folder}", mode | _OWNER_READ)  # noqa: PTH101 - a descriptor, no path


def _go_to_next_folder(folder: int, levels: list[_Level]) -> tuple[int, bool]:
    """Enters an unvisited folder, or else the parent.

    Returns the folder that is open then, and whether it was entered just now.
    """
    if levels[-1].unvisited:
        name = levels[-1].unvisited.pop()
        with suppress(OSError):  # the folder was removed or replaced
            below = _open_directory(name, folder)
            levels.append(_Level(name, _identity(below)))
            os.close(folder)
            return below, True
        return folder, False
    levels.pop()
    if levels:
        try:
            above = _open_parent(folder, levels)
        except OSError:
            levels.clear()
        else:
            os.close(folder)
            return above, False
    return folder, False


def _open_parent(folder: int, levels: list[_Level]) -> int:
    """Opens the last of these folders: usually the parent; after a rename, by its path."""
    parent = os.open("..", _DIRECTORY_FLAGS, dir_fd=folder)
    if _identity(parent) == levels[-1].identity:
        return parent
    os.close(parent)
    return _reopen_from_root(levels)


def _reopen_from_root(levels: list[_Level]) -> int:
    """Opens the last of these folders by path; drops those from the first missing one on."""
    folder = os.open(levels[0].name, _DIRECTORY_FLAGS)
    for number, level in enumerate(levels[1:], 1):
        try:
            below = os.open(level.name, _DIRECTORY_FLAGS, dir_fd=folder)
        except OSError:
            del levels[number:]
            break
        os.close(folder)
        folder = below
    return folder


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino

"""Walks and removes trees of files that hostile code made, without recursion (all blocking)."""

from __future__ import annotations

import errno
import itertools
import logging
import math
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from era_kernels.safe_fs.openat import grant_owner_access, open_directory, raise_shortage

log = logging.getLogger(__name__)

MAX_NAME_BYTES = 32 * 1024 * 1024  # memory for the names of directories that a walk is to look into


@contextmanager
def closing_fd(descriptor: int) -> Iterator[int]:
    """Closes the descriptor at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tell_too_large(max_entries: int) -> None:
    log.warning("a workspace is too large to be listed", extra={"most": max_entries})


def walk(
    root: int,
    skip: Callable[[str, str], bool],
    max_entries: int,
    on_more: Callable[[int], object] = _tell_too_large,
) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the relative path and status of each regular file below a directory, in no order.

    Skips directories for which `skip(folder, name)` is true, which cannot be opened or whose path
    is longer than a path may be; stops after `max_entries` entries, or where names of directories
    take too much memory, and calls `on_more` with that number. Raises OSError for a shortage,
    as of descriptors: what could not be looked at is not missing.
    """
    entries_left, room = max_entries, MAX_NAME_BYTES
    folders = [("", "")]  # folders and names in them: as paths, they would take ten times as much
    while folders:
        above, name = folders.pop()
        room += sys.getsizeof(name)
        folder = f"{above}{name}/" if name else ""
        try:
            with closing_fd(open_directory(root, folder or ".")) as directory:
                for entry in _list_entries(directory):
                    entries_left -= 1
                    if entries_left < 0:
                        on_more(max_entries)
                        return
                    path = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if skip(folder, entry.name):
                            continue
                        folders.append((folder, entry.name))
                        room -= sys.getsizeof(entry.name)
                        if room < 0:
                            on_more(max_entries)
                            return
                    elif entry.is_file(follow_symlinks=False):
                        with suppress(FileNotFoundError):  # removed just now
                            yield path, entry.stat(follow_symlinks=False)
        except OSError as error:
            raise_shortage(error)


def remove_tree(parent: int, name: str, seconds: float = math.inf) -> bool:
    """Removes a directory and all in it, also what code made unwritable, or a file of that name.

    Never follows a symbolic link. Entries that cannot be removed are logged and remain. Returns
    False when `seconds` were not enough: what is left has that name, and another call goes on.
    Raises OSError for a shortage, as of descriptors: another call goes on then, too.
    """
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return True
        with closing_fd(open_directory(parent, name)) as root:
            _TreeRemover(root, time.monotonic() + seconds).run()
        os.rmdir(name, dir_fd=parent)
    except _OutOfTime:
        return False
    except FileNotFoundError:
        return True
    except OSError as error:
        raise_shortage(error)
        _log_remaining(name, error)
    return True


def ensure_directory(parent: int, name: str) -> None:
    """Makes a directory where it is missing, replacing a file of its name. Raises OSError."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)


class _OutOfTime(Exception):
    """The time for a removal is over."""


class _TreeRemover:
    """Empties a directory. Moves deep directories up first, so any depth needs two descriptors."""

    def __init__(self, root: int, limit: float) -> None:
        """`limit`: when to raise _OutOfTime (`time.monotonic`)."""
        self._root = root
        self._limit = limit
        self._folders: list[str] = []  # directories in the root that are still to be removed
        self._new_names = (f"{secrets.token_hex(8)}-{n}" for n in itertools.count())
        self._has_failed = False

    def run(self) -> None:
        # Repeated after a success: a listing may miss entries of a directory that shrinks.
        while self._remove_entries(self._root, self._folders.append) and not self._has_failed:
            while self._folders:
                name = self._folders.pop()
                try:
                    self._remove(name)
                except OSError as error:
                    self._on_failure(name, error)

    def _remove(self, name: str) -> None:
        with closing_fd(open_directory(self._root, name)) as folder:
            with suppress(PermissionError):
                os.fchmod(folder, 0o700)
            removed = self._remove_entries(folder, lambda child: self._move_up(folder, child))
        try:
            os.rmdir(name, dir_fd=self._root)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not removed:
                raise
            self._folders.append(name)

    def _remove_entries(self, folder: int, on_directory: Callable[[str], None]) -> int:
        """Removes a directory's files, calls `on_directory` for its directories; counts both."""
        removed = 0
        for entry in _list_entries(folder):
            if time.monotonic() > self._limit:
                raise _OutOfTime
            try:
                if entry.is_dir(follow_symlinks=False):
                    on_directory(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=folder)
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                self._on_failure(entry.name, error)
        return removed

    def _move_up(self, folder: int, child: str) -> None:
        name = next(self._new_names)
        try:
            os.rename(child, name, src_dir_fd=folder, dst_dir_fd=self._root)
        except PermissionError:  # a directory that its owner may not write to cannot be moved
            grant_owner_access(folder, child)
            os.rename(child, name, src_dir_fd=folder, dst_dir_fd=self._root)
        self._folders.append(name)

    def _on_failure(self, name: str, error: OSError) -> None:
        raise_shortage(error)
        self._has_failed = True
        _log_remaining(name, error)


def _list_entries(directory: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        yield from entries


def _log_remaining(name: str, error: OSError) -> None:
    log.warning("what was to be removed remains", extra={"path": repr(name), "why": str(error)})

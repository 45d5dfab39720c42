"""Trees of files that hostile code made: walked and removed without recursion (all blocking)."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from era_kernels.storage.beneath import let_in, open_directory

log = logging.getLogger(__name__)


@contextmanager
def opened(descriptor: int) -> Iterator[int]:
    """Closes the descriptor at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def walk(
    root: int, hidden: Callable[[str, str], bool], most: int
) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files below a directory: relative path and status, in no order.

    Goes into no directory for which `hidden(folder, name)`, nor into one that cannot be opened or
    whose path is longer than a path may be; stops after `most` entries.
    """
    room = most
    folders = [""]
    while folders:
        folder = folders.pop()
        with suppress(OSError), opened(open_directory(root, folder or ".")) as directory:
            for entry in _entries(directory):
                room -= 1
                if room < 0:
                    log.warning("a workspace is too large to be listed", extra={"most": most})
                    return
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not hidden(folder, entry.name):
                        folders.append(path + "/")
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # removed just now
                        yield path, entry.stat(follow_symlinks=False)


def remove_tree(parent: int, name: str) -> None:
    """Remove a directory and all in it, also what code made unwritable, or a file of that name.

    Never follows a symbolic link. What cannot be removed is logged and remains.
    """
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        with opened(open_directory(parent, name)) as root:
            _Removal(root).run()
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        _remains(name, error)


def make_directory(home: int, name: str) -> None:
    """Make it where it is missing, also where something else has its name. Raises OSError."""
    try:
        os.mkdir(name, 0o700, dir_fd=home)
    except FileExistsError:
        mode = os.stat(name, dir_fd=home, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=home)
            os.mkdir(name, 0o700, dir_fd=home)


class _Removal:
    """Empties a directory. What lies deep is moved up first, so any depth needs two descriptors."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._folders: list[str] = []  # of the root, still to be removed
        self._names = (f"{secrets.token_hex(8)}-{n}" for n in itertools.count())
        self._failed = False

    def run(self) -> None:
        # Once more after a success: a directory that shrinks may hide entries from a listing.
        while self._clear(self._root, self._folders.append) and not self._failed:
            while self._folders:
                name = self._folders.pop()
                try:
                    self._remove(name)
                except OSError as error:
                    self._fail(name, error)

    def _remove(self, name: str) -> None:
        with opened(open_directory(self._root, name)) as folder:
            with suppress(PermissionError):
                os.fchmod(folder, 0o700)
            removed = self._clear(folder, lambda child: self._move_up(folder, child))
        try:
            os.rmdir(name, dir_fd=self._root)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not removed:
                raise
            self._folders.append(name)

    def _clear(self, folder: int, on_directory: Callable[[str], None]) -> int:
        """Remove the files of a directory, do that with its directories; how many went."""
        removed = 0
        for entry in _entries(folder):
            try:
                if entry.is_dir(follow_symlinks=False):
                    on_directory(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=folder)
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                self._fail(entry.name, error)
        return removed

    def _move_up(self, folder: int, child: str) -> None:
        name = next(self._names)
        try:
            os.rename(child, name, src_dir_fd=folder, dst_dir_fd=self._root)
        except PermissionError:  # a directory that its owner may not write to cannot be moved
            let_in(folder, child)
            os.rename(child, name, src_dir_fd=folder, dst_dir_fd=self._root)
        self._folders.append(name)

    def _fail(self, name: str, error: OSError) -> None:
        self._failed = True
        _remains(name, error)


def _entries(directory: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        yield from entries


def _remains(name: str, error: OSError) -> None:
    log.warning("what was to be removed remains", extra={"path": repr(name), "why": str(error)})

"""Uids of sessions: each sandbox that root opens has one of its own, which owns its files."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

# Nobody gives these out: systemd.io/UIDS-GIDS calls 1879048192 to 2147483647 unused.
PREFERRED_UIDS = range(1_900_000_000, 2_000_000_000)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UidAllocator:
    """Which uids are in use. A session keeps its uid as long as no other has it meanwhile."""

    def __init__(self, uids: range) -> None:
        self._uids = uids
        self._allocated: set[int] = set()

    @property
    def traverse_gid(self) -> int:
        """A group that is nobody's own."""
        return self._uids.start - 1

    def allocate(self, directory: Path) -> int:
        """A uid that no other sandbox has: the directory's owner, if that is one (blocking)."""
        uid = directory.stat().st_uid
        while uid not in self._uids or uid in self._allocated:
            uid = self._uids[secrets.randbelow(len(self._uids))]
        self._allocated.add(uid)
        return uid

    def release(self, uid: int | None) -> None:
        """The sandbox has ended."""
        self._allocated.discard(-1 if uid is None else uid)


def available_uids(table: str = "/proc/self/uid_map") -> range:
    """Uids for sessions: the wished ones, or, in a container that maps few, its upper half."""
    rows = [tuple(map(int, line.split())) for line in Path(table).read_text("ascii").splitlines()]
    if any(
        first <= PREFERRED_UIDS.start and PREFERRED_UIDS.stop <= first + size
        for first, _, size in rows
    ):
        return PREFERRED_UIDS
    first, _, size = max(rows, key=lambda row: row[2])
    return range(first + size // 2 + 1, first + size)


def is_traversable(directory: Path) -> bool:
    """May everybody walk through to it?"""
    return all(above.stat().st_mode & stat.S_IXOTH for above in directory.absolute().parents)


def allow_traverse(directory: Path, gid: int, own_directories: Iterable[Path]) -> None:
    """Let that group walk through `ours`, and what is below them, to a directory (blocking).

    It may not list them, nor read what is in them. Raises OSError.
    """
    for above in directory.parents:
        status = above.stat()
        if status.st_mode & stat.S_IXOTH:
            continue
        if not any(above.is_relative_to(one) for one in own_directories):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))
        if status.st_gid != gid or not status.st_mode & stat.S_IXGRP:
            os.chown(above, -1, gid)
            above.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IRWXG | stat.S_IXGRP)


def chown_tree(directories: Iterable[Path], uid: int) -> None:
    """Make that uid the owner of directories and of all in them (blocking).

    Nothing is done where it is the owner already: who writes later must give it what he makes.
    No link is followed; nothing may run in them. Raises OSError.
    """
    for directory in directories:
        root = os.open(directory, _DIRECTORY_FLAGS)
        try:
            if os.fstat(root).st_uid != uid:
                _chown_below(root, uid)
                os.fchown(root, uid, uid)  # last: a crash before it is seen
        finally:
            os.close(root)


def _chown_below(root: int, uid: int) -> None:
    folders = ["."]
    while folders:
        folder = folders.pop()
        try:
            with _scan_directory(root, folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}"
                    with suppress(FileNotFoundError):
                        os.chown(path, uid, uid, dir_fd=root, follow_symlinks=False)
                        if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                            folders.append(path)
        except OSError as error:  # deeper than a path may be long: the code sees the same error
            log.warning("files keep their owner", extra={"path": folder[:200], "why": str(error)})


@contextmanager
def _scan_directory(root: int, folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    descriptor = os.open(folder, _DIRECTORY_FLAGS, dir_fd=root)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)

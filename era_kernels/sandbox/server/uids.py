"""Gives each sandbox that root opens its own uid, which owns the session's files."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from era_kernels.safe_fs.openat import open_directory
from era_kernels.safe_fs.tree import closing_fd

log = logging.getLogger(__name__)

# No system allocates these: systemd.io/UIDS-GIDS calls 1879048192 to 2147483647 unused.
PREFERRED_UIDS = range(1_900_000_000, 2_000_000_000)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UidAllocator:
    """Allocates uids; a session keeps its uid unless another sandbox got it meanwhile."""

    def __init__(self, uids: range) -> None:
        self._uids = uids
        self._allocated: set[int] = set()

    @property
    def init_uid(self) -> int:
        """The uid of the inits of sessions with uids of their own; no session's."""
        return self._uids.start - 1

    @property
    def outbound_uid(self) -> int:
        """The uid of what serves the networks of sessions; no session's, and no init's."""
        return self._uids.start - 2

    @property
    def signaller_uid(self) -> int:
        """The uid of what signals all processes of a session at once; no session's."""
        return self._uids.start - 3

    @property
    def traverse_gid(self) -> int:
        """The group that may traverse the server's directories; no session's own group."""
        return self._uids.start - 1

    def allocate(self, directory: Path) -> int:
        """Returns a uid that no other sandbox has: the directory's owner if it fits (blocking)."""
        uid = directory.stat().st_uid
        while uid not in self._uids or uid in self._allocated:
            uid = self._uids[secrets.randbelow(len(self._uids))]
        self._allocated.add(uid)
        return uid

    def release(self, uid: int | None) -> None:
        """Frees the uid of a sandbox that has ended."""
        self._allocated.discard(-1 if uid is None else uid)


def available_uids(table: str = "/proc/self/uid_map") -> range:
    """Returns the uids for sessions: the preferred ones, or the upper half of a small map."""
    rows = [tuple(map(int, line.split())) for line in Path(table).read_text("ascii").splitlines()]
    if any(
        first <= PREFERRED_UIDS.start and PREFERRED_UIDS.stop <= first + size
        for first, _, size in rows
    ):
        return PREFERRED_UIDS
    first, _, size = max(rows, key=lambda row: row[2])
    return range(first + size // 2 + 1, first + size)


def is_traversable(directory: Path) -> bool:
    """Returns whether every user may traverse the directories above it."""
    return all(above.stat().st_mode & stat.S_IXOTH for above in directory.absolute().parents)


def allow_traverse(directory: Path, gid: int, own_directories: Iterable[Path]) -> None:
    """Lets a group traverse `own_directories`, and those below, to a directory (blocking).

    The group may not list them, nor read files in them. Raises OSError.
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
    """Makes a uid the owner of directories and of all in them (blocking).

    A directory that the uid owns already is skipped: later writers must set the owner themselves.
    No link is followed, and no other file system is entered, whatever code changes meanwhile.
    Raises OSError, also for the root of all files: no session may have it.
    """
    for directory in directories:
        root = os.open(directory, _DIRECTORY_FLAGS)
        try:
            if os.path.samestat(os.fstat(root), Path("/").stat()):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(directory))
            if os.fstat(root).st_uid != uid:
                _chown_below(root, uid)
                os.fchown(root, uid, uid)  # last, so that a crash before it is noticed
        finally:
            os.close(root)


def _chown_below(root: int, uid: int) -> None:
    device = os.fstat(root).st_dev
    folders = ["."]
    while folders:
        folder = folders.pop()
        try:
            with (
                closing_fd(open_directory(root, folder)) as directory,
                os.scandir(directory) as entries,
            ):
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if status.st_dev != device:
                            continue
                        os.chown(entry.name, uid, uid, dir_fd=directory, follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            folders.append(f"{folder}/{entry.name}")
        except OSError as error:  # deeper than the longest path: the code gets the same error
            log.warning("files keep their owner", extra={"path": folder[:200], "why": str(error)})

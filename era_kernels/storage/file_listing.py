"""Lists the user's files in a workspace, counts them, and compares two such lists."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from heapq import nsmallest

from era_kernels.models import MAX_CHANGED_PATHS, FileInfo, FilesChanged
from era_kernels.safe_fs.tree import walk
from era_kernels.storage import workspace_data_file
from era_kernels.storage.open_file import FileStatus
from era_kernels.storage.workspace_data_file import FileStamp

log = logging.getLogger(__name__)

MAX_ENTRIES = 200_000  # files and directories that are scanned; the rest is not counted
MAX_PATH_BYTES = 32 * 1024 * 1024  # of the paths in a list; the rest is not counted, either
DATA_FILE_NAME = workspace_data_file.NAME  # is in every workspace, and is no file of the user
MAX_TOTAL_SIZE = 2**63 - 1  # bytes that a column can hold; sparse files may claim more

# Directories that users do not count as their files: caches of tools, and unpacked packages.
HIDDEN_ANYWHERE = frozenset(
    {"__pycache__", "node_modules", ".cache", ".ipynb_checkpoints", ".mypy_cache", ".npm"}
    | {".pytest_cache", ".ruff_cache"}
)
# The workspace is the home directory of the code, where tools store configuration and caches.
HIDDEN_AT_HOME = frozenset(
    {".bun", ".cargo", ".conda", ".config", ".deno", ".fontconfig", ".gnupg", ".ipython"}
    | {".jupyter", ".keras", ".local", ".matplotlib", ".node-gyp", ".nv", ".pki", ".yarn"}
)

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


class TooManyEntries(Exception):
    """A workspace has more files and directories than were to be scanned."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """The put or deletion of one file: its stamps before and after, None without a file."""

    path: str
    before: FileStamp | None
    after: FileStamp | None
    status: FileStatus | None = field(default=None, compare=False)  # of the file that was put

    @property
    def count_delta(self) -> int:
        """The number of user files that the change adds; negative if it removes one."""
        if is_hidden(self.path):
            return 0
        return (self.after is not None) - (self.before is not None)

    @property
    def size_delta(self) -> int:
        """The bytes of user files that the change adds; negative if it removes some."""
        if is_hidden(self.path):
            return 0
        return _size(self.after) - _size(self.before)


@dataclass(frozen=True)
class FileListing:
    """The user's regular files: stamps (inode, size, mtime in ns) by path, as Python decodes it."""

    entries: Mapping[str, FileStamp] = field(default_factory=dict)
    total_size: int = 0  # bytes of all files together

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self.entries)

    @cached_property
    def files(self) -> list[FileInfo]:
        """The files, sorted by the bytes of the path; U+FFFD stands for what is no UTF-8.

        The list is made at the first access, which takes a while for very many files.
        """
        return [
            FileInfo(_display_path(path), size, time_from_mtime(mtime_ns))
            for path, (_, size, mtime_ns) in sorted(
                self.entries.items(), key=lambda item: item[0].encode("utf-8", "surrogateescape")
            )
        ]

    def with_change(self, change: FileChange) -> FileListing:
        """Returns the listing after one file was put or deleted."""
        if is_hidden(change.path):
            return self
        entries = dict(self.entries)
        entries.pop(change.path, None)
        if change.after is not None:
            entries[change.path] = change.after
        return FileListing(
            entries, min(max(0, self.total_size + change.size_delta), MAX_TOTAL_SIZE)
        )

    def changes_since(self, before: FileListing) -> FilesChanged:
        """Returns the files that were created, changed or deleted since `before`.

        Of very many, the paths of the first MAX_CHANGED_PATHS are in it, in the order of lists.
        """
        differing = {path for path, _ in self.entries.items() ^ before.entries.items()}
        listed = nsmallest(MAX_CHANGED_PATHS, differing, key=os.fsencode)
        created = [path for path in listed if path not in before.entries]
        deleted = [path for path in listed if path not in self.entries]
        changed = [path for path in listed if path in before.entries and path in self.entries]
        paths = (tuple(map(_display_path, part)) for part in (created, changed, deleted))
        return FilesChanged(len(differing), *paths)


def scan(workspace: int, max_entries: int = MAX_ENTRIES) -> FileListing:
    """Lists the files in one walk through a workspace (blocking).

    Raises TooManyEntries after `max_entries` if that is less than MAX_ENTRIES.
    """

    def raise_error(_: int) -> None:
        raise TooManyEntries

    limits = (max_entries, raise_error) if max_entries < MAX_ENTRIES else (MAX_ENTRIES,)
    entries, room = {}, MAX_PATH_BYTES
    for path, status in walk(workspace, _is_hidden_directory, *limits):
        room -= path.__sizeof__()
        if room < 0:
            log.warning("the paths of a workspace are too long to be listed")
            break
        if path != DATA_FILE_NAME:
            entries[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    total_size = sum(size for _, size, _ in entries.values())
    return FileListing(entries, min(total_size, MAX_TOTAL_SIZE))


def is_hidden(path: str) -> bool:
    """Returns True for a file that lists and counts leave out."""
    *folders, _ = path.split("/")
    return path == DATA_FILE_NAME or any(
        _is_hidden_directory("/".join(folders[:depth]), name) for depth, name in enumerate(folders)
    )


def _size(stamp: FileStamp | None) -> int:
    return 0 if stamp is None else stamp[1]


def _is_hidden_directory(folder: str, name: str) -> bool:
    return name in HIDDEN_ANYWHERE or (not folder and name in HIDDEN_AT_HOME)


def _display_path(path: str) -> str:
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def time_from_mtime(mtime_ns: int) -> datetime:
    """Returns the nearest time that a datetime can hold: code may set any time."""
    try:
        return datetime.fromtimestamp(mtime_ns / 1e9, UTC)
    except (OverflowError, ValueError):
        return _EARLIEST if mtime_ns < 0 else _LATEST

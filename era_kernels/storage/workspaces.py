"""Makes, scans, copies, clears and removes the sessions' directories.

The files in a workspace belong to hostile code, which may be running: they are reached by
descriptors only, and nothing about them is taken for granted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from era_kernels.concurrency.single_flight import SingleFlights
from era_kernels.concurrency.waiting import ends_within
from era_kernels.errors import StorageFailed
from era_kernels.models import NO_FILES_CHANGED, FilesChanged, JsonObject, SessionPaths
from era_kernels.safe_fs.copy import CopyCancelled, TreeCopier
from era_kernels.safe_fs.openat import open_directory, raise_shortage
from era_kernels.safe_fs.trash import PATIENCE, Trash
from era_kernels.safe_fs.tree import closing_fd, ensure_directory
from era_kernels.safe_fs.usage import max_copy_bytes
from era_kernels.storage import content_types, file_listing, lost_and_found
from era_kernels.storage import workspace_data_file as data_files
from era_kernels.storage.disk_room import always_room
from era_kernels.storage.file_listing import (
    MAX_ENTRIES,
    FileChange,
    FileListing,
    TooManyEntries,
)
from era_kernels.storage.lost_and_found import LostAndFound
from era_kernels.storage.threads import StorageThreads
from era_kernels.storage.unfinished_marks import UnfinishedDirectories, is_unfinished
from era_kernels.storage.workspace_data_file import WorkspaceDataFile

log = logging.getLogger(__name__)

__all__ = [
    "CopyCancelled",
    "FileChange",
    "FileListing",
    "WorkspaceChanges",
    "WorkspaceDataFile",
    "Workspaces",
]

WORKSPACE = "workspace"
SUBDIRECTORIES = (WORKSPACE, "packages", "executions", "state", "cache")
COPIED_SUBDIRECTORIES = (WORKSPACE, "packages")  # a duplicate has its own runs, logs and caches
RUN_THREADS = 4  # threads for work that a run waits for
TREE_THREADS = 2  # threads that walk whole trees, which may be large: Python runs one at a time
REMOVAL_THREADS = 4  # threads that remove trees, each for PATIENCE or one file that takes longer
LARGE = 5000  # files; runs in workspaces of more wait for each other, and no other run for them
COPY_THREADS = 2  # threads that copy whole trees, which may take long

_OWN_NAME = re.compile(r"[0-9a-f]{16}")  # names that `create` gives
# Names of what is not a session's directory yet, or no more.
_GARBAGE_NAME = re.compile(r"(new|removed)-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class WorkspaceChanges:
    """The effects of a run: `data` if code changed them, `data_file` None if it is broken."""

    listing: FileListing
    data_file: WorkspaceDataFile | None
    data: JsonObject | None
    files_changed: FilesChanged


class Workspaces:
    """Manages all sessions' directories, which have random names below one directory."""

    def __init__(self, sessions: Path, check_room: Callable[[], None] = always_room) -> None:
        """`check_room` raises InsufficientStorage when nothing new is to be stored."""
        self._sessions = sessions
        self._check_room = check_room
        self._lost_and_found = LostAndFound(sessions.parent / lost_and_found.DIRECTORY)
        self._run_threads = StorageThreads("workspace", RUN_THREADS)
        self._tree_threads = StorageThreads("tree", TREE_THREADS)
        self._removal_threads = StorageThreads("removal", REMOVAL_THREADS)
        self._copy_threads = StorageThreads("copy", COPY_THREADS)
        self.unfinished = UnfinishedDirectories(sessions, self._run_threads)
        self._trash = Trash()
        # Of files, by directory.
        self._scans = SingleFlights[str, FileListing](
            lambda directory: self._tree_threads.run(self._scan, directory)
        )

    def session_paths(self, directory: str) -> SessionPaths:
        """Returns the paths that a session's code uses."""
        session_directory = self._sessions / directory
        return SessionPaths(
            session_directory / WORKSPACE,
            session_directory / "packages",
            session_directory / "cache",
        )

    async def create(self) -> str:
        """Creates a directory for a session; returns its name.

        Until `unfinished.keep` is called, a start takes the directory for one whose session came
        to nothing, and removes it. Raises StorageFailed, InsufficientStorage.
        """
        self._check_room()
        name = secrets.token_hex(8)
        await self._run_threads.run(self.unfinished.create, name, SUBDIRECTORIES)
        return name

    async def write_data_file(
        self, directory: str, data: JsonObject, data_file: WorkspaceDataFile | None
    ) -> WorkspaceDataFile:
        """Makes missing directories, and writes `data` to `.session_data.json` if they differ.

        Raises StorageFailed, InsufficientStorage.
        """
        return await self._run_threads.run(self._write_data_file, directory, data, data_file)

    async def read_changes(
        self, directory: str, listing: FileListing | None, data_file: WorkspaceDataFile | None
    ) -> WorkspaceChanges:
        """Finds what changed since the listing, and since `write_data_file` returned `data_file`.

        Raises StorageFailed.
        """
        work = partial(self._read_changes, directory, listing, data_file)
        if listing is None or listing.count <= LARGE:
            with suppress(TooManyEntries):
                return await self._run_threads.run(work, 2 * LARGE)
        return await self._tree_threads.run(work, MAX_ENTRIES)

    async def scan(self, directory: str) -> FileListing:
        """Lists the user's files, once for all who ask meanwhile. Raises StorageFailed."""
        return await self._scans.run_fresh(directory)

    async def clear_files(self, directory: str) -> None:
        """Drops the files of a session that is not persistent; executions and packages stay.

        Nothing may run in the session. Raises StorageFailed.
        """
        await self._remove_trash(await self._run_threads.run(self._move_files_to_trash, directory))

    async def remove(self, directory: str, *, is_kept: bool = False) -> None:
        """Removes a session's directory, which may be missing; nothing may run in it.

        The directory is renamed first, so that a crash leaves no half-removed session. What takes
        longer than PATIENCE goes on after this has returned. With `is_kept` it is made anew,
        without anything in it. Files that cannot be removed are logged.
        Raises StorageFailed.
        """
        self._scans.forget(directory)  # one for which nobody waits any more
        await self._remove_trash(await self._run_threads.run(self._move_to_trash, directory))
        if is_kept:
            await self._run_threads.run(self.unfinished.create, directory, SUBDIRECTORIES)
            await self.unfinished.keep(directory)

    async def copy(
        self, source: str, target: str, data: JsonObject, is_cancelled: Callable[[], bool]
    ) -> FileListing:
        """Copies files and packages into a new session's directory, and writes `data` there.

        The copy is durable when this returns. Code may run in the source: each of its changes
        meanwhile is copied or not. `is_cancelled` is called in a thread. Raises CopyCancelled,
        TooLarge, Conflict, StorageFailed, InsufficientStorage: the caller must remove the target.
        """
        return await self._copy_threads.run(self._copy, source, target, data, is_cancelled)

    async def reconcile(self, known: set[str], deleted: Collection[str] = ()) -> None:
        """Tidies up, after a start, what is no session's directory, and makes missing ones.

        What a former server was making or removing is removed, `deleted` among them: directories
        of sessions that were deleted. Any other that is not `known` is moved to `lost+found`, and
        told. Directories whose names were not made here stay. Raises StorageFailed,
        InsufficientStorage.
        """
        await self._remove_trash(await self._tree_threads.run(self._reconcile, known, deleted))

    async def _remove_trash(self, paths: Collection[Path]) -> None:
        """Has it removed, and waits for PATIENCE, whether a thread has begun by then or not.

        To remove one file of very many pieces may take Linux minutes, which nothing interrupts.
        """
        if paths:
            removal = self._removal_threads.submit(self._empty_trash, paths)
            if await ends_within(removal, PATIENCE):
                removal.result()
            else:
                removal.add_done_callback(_log_failure)

    async def aclose(self) -> None:
        """Finishes all work that was begun, but removals, which the next start finishes.

        A second call is fine.
        """
        for threads in (
            self._run_threads,
            self._tree_threads,
            self._copy_threads,
        ):
            await asyncio.to_thread(threads.close)
        await asyncio.to_thread(self._trash.close)
        await asyncio.to_thread(self._removal_threads.close)

    # ------------------------------------------------------------ in a thread

    def _write_data_file(
        self, directory: str, data: JsonObject, data_file: WorkspaceDataFile | None
    ) -> WorkspaceDataFile:
        with self._open(directory) as session_directory:
            for part in SUBDIRECTORIES:
                ensure_directory(session_directory, part)
            with closing_fd(open_directory(session_directory, WORKSPACE)) as workspace:
                _restore_owner_access(workspace)
                with closing_fd(open_directory(session_directory, "state")) as state:
                    return data_files.write_if_changed(workspace, state, data, data_file)

    def _read_changes(
        self,
        directory: str,
        before: FileListing | None,
        data_file: WorkspaceDataFile | None,
        max_entries: int,
    ) -> WorkspaceChanges:
        with self._open(directory) as session_directory:
            try:
                workspace = open_directory(session_directory, WORKSPACE)
            except OSError as error:
                raise_shortage(error)
                # Code removed or replaced the workspace; the next run gets a new one.
                return _compare(FileListing(), before, None, None)
            with closing_fd(workspace):
                after, data = (
                    (None, None)
                    if data_file is None
                    else data_files.read_changes(workspace, data_file)
                )
                return _compare(file_listing.scan(workspace, max_entries), before, after, data)

    def _scan(self, directory: str) -> FileListing:
        with self._open(directory) as session_directory:
            try:
                workspace = open_directory(session_directory, WORKSPACE)
            except OSError as error:
                raise_shortage(error)
                return FileListing()
            with closing_fd(workspace):
                listing = file_listing.scan(workspace)
        log.debug("a workspace was scanned", extra={"files": len(listing.files)})
        return listing

    def _move_files_to_trash(self, directory: str) -> Collection[Path]:
        with self._open(directory) as session_directory, self._open("") as sessions:
            trash = _trash_name()
            try:
                os.rename(WORKSPACE, trash, src_dir_fd=session_directory, dst_dir_fd=sessions)
            except FileNotFoundError:
                return ()
            ensure_directory(session_directory, WORKSPACE)
        return (self._sessions / trash,)

    def _copy(
        self, source: str, target: str, data: JsonObject, is_cancelled: Callable[[], bool]
    ) -> FileListing:
        def is_to_stop() -> bool:
            self._check_room()  # others may have taken what there was when the copy began
            return is_cancelled()

        roots = (self._sessions / source / part for part in COPIED_SUBDIRECTORIES)
        copier = TreeCopier(is_to_stop, max_copy_bytes(*roots), copy_attributes=content_types.copy)
        with (
            self._open(source) as old,
            self._open(target) as target_path,
            closing_fd(open_directory(target_path, ".")) as new,
            closing_fd(open_directory(new, WORKSPACE)) as workspace,
            closing_fd(open_directory(new, "state")) as state,
        ):
            for part in COPIED_SUBDIRECTORIES:
                copier.copy(old, new, part)
            data_files.write_if_changed(workspace, state, data, None)
            listing = file_listing.scan(workspace)
            copier.sync(new)
        with closing_fd(os.open(self._sessions, os.O_RDONLY | os.O_CLOEXEC)) as sessions:
            os.fsync(sessions)
        return listing

    def _move_to_trash(self, directory: str) -> Collection[Path]:
        with self._open("") as sessions:
            trash = _trash_name()
            try:
                os.rename(directory, trash, src_dir_fd=sessions, dst_dir_fd=sessions)
            except FileNotFoundError:
                return ()
        return (self._sessions / trash,)

    def _empty_trash(self, paths: Collection[Path]) -> None:
        limit = time.monotonic() + PATIENCE
        for path in paths:
            self._trash.remove(path, max(0.0, limit - time.monotonic()))

    def _reconcile(self, known: set[str], deleted: Collection[str]) -> Collection[Path]:
        found = set(os.listdir(self._sessions))  # noqa: PTH208 - names, not paths
        missing = {self._sessions / name for name in known - found}
        for path in sorted(missing - self._lost_and_found.bring_back(missing)):
            log.warning("the directory of a session was missing", extra={"directory": path.name})
            self.unfinished.create(path.name, SUBDIRECTORIES)
        for name in known:
            self.unfinished.unmark(name)
        unknown = set(own_directories(self._sessions)) - known
        unfinished = {name for name in unknown if is_unfinished(self._sessions / name)}
        garbage = unfinished | unknown.intersection(deleted)
        trash = [self._sessions / name for name in sorted(found) if _GARBAGE_NAME.fullmatch(name)]
        for name in sorted(garbage):
            log.info("a directory of no session is removed", extra={"directory": name})
            trash += self._move_to_trash(name)
        self._set_aside(unknown - garbage)
        return trash

    def _set_aside(self, unknown: set[str]) -> None:
        count = sum(self._lost_and_found.take(self._sessions / name) for name in sorted(unknown))
        if count:
            log.warning(
                "directories of sessions that the database does not know were set aside",
                extra={"count": count, "place": str(self._lost_and_found.path)},
            )

    @contextmanager
    def _open(self, directory: str) -> Iterator[int]:
        """Opens a session's directory, or for "" the directory that holds them all."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._sessions / directory, flags)
        except FileNotFoundError as error:
            raise StorageFailed("The session's directory is gone.") from error
        with closing_fd(descriptor):
            yield descriptor


def own_directories(sessions: Path) -> list[str]:
    """Returns the names of directories that were made for sessions (blocking)."""
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(sessions) if _OWN_NAME.fullmatch(name)]  # noqa: PTH208
    return []


def _compare(
    listing: FileListing,
    before: FileListing | None,
    data_file: WorkspaceDataFile | None,
    data: JsonObject | None,
) -> WorkspaceChanges:
    changed = NO_FILES_CHANGED if before is None else listing.changes_since(before)
    return WorkspaceChanges(listing, data_file, data, changed)


def _log_failure(removal: asyncio.Future[None]) -> None:
    """Tells why something could not be removed of which nobody waits for the end."""
    if not removal.cancelled() and removal.exception() is not None:
        log.error("what was to be removed remains", exc_info=removal.exception())


def _trash_name() -> str:
    return f"removed-{secrets.token_hex(8)}"


def _restore_owner_access(workspace: int) -> None:
    """Restores the owner's rights to a workspace, which code may have removed. Raises OSError."""
    mode = stat.S_IMODE(os.fstat(workspace).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(workspace, mode | 0o700)

"""The sessions' directories: made, looked at before and after runs, emptied and removed.

What lies in a workspace belongs to hostile code, which may run just then: it is reached by
descriptors only, and nothing about it is taken for granted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from era_kernels.errors import StorageFailed
from era_kernels.models import JsonObject, SessionPaths
from era_kernels.safe_fs.copy import CopyCancelled, TreeCopier
from era_kernels.safe_fs.openat import open_directory
from era_kernels.safe_fs.tree import closing_fd, ensure_directory, remove_tree
from era_kernels.storage import data_file as data_files
from era_kernels.storage import snapshot as snapshots
from era_kernels.storage.data_file import DataFile
from era_kernels.storage.snapshot import Change, Snapshot
from era_kernels.storage.threads import StorageThreads

log = logging.getLogger(__name__)

__all__ = ["AfterRun", "Change", "DataFile", "Snapshot", "CopyCancelled", "Workspaces"]

WORKSPACE = "workspace"
SUBDIRECTORIES = (WORKSPACE, "packages", "executions", "state", "cache")
COPIED_SUBDIRECTORIES = (
    WORKSPACE,
    "packages",
)  # what a duplicate gets; runs, logs and caches are its own
RUN_THREADS = 4  # threads for what a run waits for
TREE_THREADS = 4  # threads for what walks or removes whole trees
COPY_THREADS = 2  # threads for what copies them, which may take long

_OWN_NAME = re.compile(r"(removed-)?[0-9a-f]{16}")  # names that `create` and `remove` give


@dataclass(frozen=True, slots=True)
class AfterRun:
    """What a run did: `data` where the code changed it, `data_file` None where it is broken."""

    snapshot: Snapshot
    data_file: DataFile | None
    data: JsonObject | None
    files_modified: int


class Workspaces:
    """All sessions' directories, by their random names, below one directory."""

    def __init__(self, sessions: Path) -> None:
        self._sessions = sessions
        self._run_threads = StorageThreads("workspace", RUN_THREADS)
        self._tree_threads = StorageThreads("tree", TREE_THREADS)
        self._copy_threads = StorageThreads("copy", COPY_THREADS)

    def session_paths(self, directory: str) -> SessionPaths:
        """Where code finds its things."""
        session_directory = self._sessions / directory
        return SessionPaths(
            session_directory / WORKSPACE,
            session_directory / "packages",
            session_directory / "cache",
        )

    async def create(self) -> str:
        """The name of a new session's directory. Raises StorageFailed, InsufficientStorage."""
        name = secrets.token_hex(8)
        await self._run_threads.run(self._create, name)
        return name

    async def before_run(
        self, directory: str, data: JsonObject, data_file: DataFile | None
    ) -> DataFile:
        """What is missing is made; `.session_data.json` shows `data`. Free when it did already.

        Raises StorageFailed, InsufficientStorage.
        """
        return await self._run_threads.run(self._before_run, directory, data, data_file)

    async def after_run(
        self, directory: str, snapshot: Snapshot | None, data_file: DataFile | None
    ) -> AfterRun:
        """What changed since the snapshot, and since `before_run` gave that mirror.

        Raises StorageFailed.
        """
        return await self._run_threads.run(self._after_run, directory, snapshot, data_file)

    async def scan(self, directory: str) -> Snapshot:
        """The user's files as they are now. Raises StorageFailed."""
        return await self._tree_threads.run(self._scan, directory)

    async def clear_files(self, directory: str) -> None:
        """Drop the files of a session that is not persistent; executions and packages stay.

        Nothing may run in it. Raises StorageFailed.
        """
        await self._tree_threads.run(self._clear_files, directory)

    async def remove(self, directory: str) -> None:
        """Remove a session's directory; nothing may run in it. It need not be there.

        Out of sight at once: a crash leaves nothing half. What cannot be removed is logged.
        Raises StorageFailed.
        """
        await self._tree_threads.run(self._remove, directory)

    async def copy(
        self, source: str, target: str, data: JsonObject, is_cancelled: Callable[[], bool]
    ) -> Snapshot:
        """Copy files and packages into a new session's directory, with a mirror of `data`.

        Durable when it returns. Code may run in the source: what it changes meanwhile is copied
        before or after. `is_cancelled` is asked in a thread. Raises CopyCancelled, TooLarge, StorageFailed,
        InsufficientStorage; the target is then to be removed.
        """
        return await self._copy_threads.run(self._copy, source, target, data, is_cancelled)

    async def reconcile(self, known: set[str]) -> None:
        """After a start: remove directories that no session names, make those that are missing.

        Names that are not of our making stay. Raises StorageFailed, InsufficientStorage.
        """
        await self._tree_threads.run(self._reconcile, known)

    async def aclose(self) -> None:
        """Finish what was begun; a second call is fine."""
        for threads in (self._run_threads, self._tree_threads, self._copy_threads):
            await asyncio.to_thread(threads.close)

    # ------------------------------------------------------------ in a thread

    def _create(self, name: str) -> None:
        session_directory = self._sessions / name
        session_directory.mkdir(mode=0o700)
        for part in SUBDIRECTORIES:
            (session_directory / part).mkdir(mode=0o700)

    def _before_run(self, directory: str, data: JsonObject, data_file: DataFile | None) -> DataFile:
        with self._open(directory) as session_directory:
            for part in SUBDIRECTORIES:
                ensure_directory(session_directory, part)
            with closing_fd(open_directory(session_directory, WORKSPACE)) as workspace:
                _restore_owner_access(workspace)
                with closing_fd(open_directory(session_directory, "state")) as state:
                    return data_files.write_if_changed(workspace, state, data, data_file)

    def _after_run(
        self, directory: str, before: Snapshot | None, data_file: DataFile | None
    ) -> AfterRun:
        with self._open(directory) as session_directory:
            try:
                workspace = open_directory(session_directory, WORKSPACE)
            except OSError:  # the code removed or replaced it; the next run gets a new one
                return _compare(Snapshot(), before, None, None)
            with closing_fd(workspace):
                after, data = (
                    (None, None)
                    if data_file is None
                    else data_files.read_changes(workspace, data_file)
                )
                return _compare(snapshots.scan(workspace), before, after, data)

    def _scan(self, directory: str) -> Snapshot:
        with self._open(directory) as session_directory:
            try:
                workspace = open_directory(session_directory, WORKSPACE)
            except OSError:
                return Snapshot()
            with closing_fd(workspace):
                snapshot = snapshots.scan(workspace)
        log.debug("a workspace was scanned", extra={"files": len(snapshot.files)})
        return snapshot

    def _clear_files(self, directory: str) -> None:
        with self._open(directory) as session_directory, self._open("") as sessions:
            trash = _trash_name()
            with suppress(FileNotFoundError):
                os.rename(WORKSPACE, trash, src_dir_fd=session_directory, dst_dir_fd=sessions)
                ensure_directory(session_directory, WORKSPACE)
                remove_tree(sessions, trash)

    def _copy(
        self, source: str, target: str, data: JsonObject, is_cancelled: Callable[[], bool]
    ) -> Snapshot:
        copier = TreeCopier(is_cancelled)
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
            snapshot = snapshots.scan(workspace)
            copier.sync(new)
        with closing_fd(os.open(self._sessions, os.O_RDONLY | os.O_CLOEXEC)) as sessions:
            os.fsync(sessions)
        return snapshot

    def _remove(self, directory: str) -> None:
        with self._open("") as sessions:
            trash = _trash_name()
            try:
                os.rename(directory, trash, src_dir_fd=sessions, dst_dir_fd=sessions)
            except FileNotFoundError:
                return
            remove_tree(sessions, trash)

    def _reconcile(self, known: set[str]) -> None:
        found = set(os.listdir(self._sessions))  # noqa: PTH208 - names, not paths
        for name in sorted(known - found):
            log.warning("the directory of a session was missing", extra={"directory": name})
            self._create(name)
        left = [name for name in sorted(found - known) if _OWN_NAME.fullmatch(name)]
        with self._open("") as sessions:
            for name in left:
                log.info("a directory of no session is removed", extra={"directory": name})
                remove_tree(sessions, name)

    @contextmanager
    def _open(self, directory: str) -> Iterator[int]:
        """A descriptor of a session's directory, or of the one that holds them all."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._sessions / directory, flags)
        except FileNotFoundError as error:
            raise StorageFailed("The session's directory is gone.") from error
        with closing_fd(descriptor):
            yield descriptor


def _compare(
    snapshot: Snapshot, before: Snapshot | None, data_file: DataFile | None, data: JsonObject | None
) -> AfterRun:
    modified = 0 if before is None else snapshot.count_changes(before)
    return AfterRun(snapshot, data_file, data, modified)


def _trash_name() -> str:
    return f"removed-{secrets.token_hex(8)}"


def _restore_owner_access(workspace: int) -> None:
    """Code may have taken its owner's rights away. Raises OSError."""
    mode = stat.S_IMODE(os.fstat(workspace).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(workspace, mode | 0o700)

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
from era_kernels.models import JsonObject, Place
from era_kernels.storage import mirror as mirrors
from era_kernels.storage import snapshot as snapshots
from era_kernels.storage.beneath import open_directory
from era_kernels.storage.copies import Copies, Stopped
from era_kernels.storage.mirror import Mirror
from era_kernels.storage.snapshot import Change, Snapshot
from era_kernels.storage.threads import Threads
from era_kernels.storage.trees import make_directory, opened, remove_tree

log = logging.getLogger(__name__)

__all__ = ["AfterRun", "Change", "Mirror", "Snapshot", "Stopped", "Workspaces"]

WORKSPACE = "workspace"
PARTS = (WORKSPACE, "packages", "executions", "state", "cache")
COPIED = (WORKSPACE, "packages")  # what a duplicate gets; runs, logs and caches are its own
QUICK = 4  # threads for what a run waits for
SLOW = 4  # threads for what walks or removes whole trees
COPYING = 2  # threads for what copies them, which may take long

_OURS = re.compile(r"(removed-)?[0-9a-f]{16}")  # names that `create` and `remove` give


@dataclass(frozen=True, slots=True)
class AfterRun:
    """What a run did: `data` where the code changed it, `mirror` None where it is broken."""

    snapshot: Snapshot
    mirror: Mirror | None
    data: JsonObject | None
    files_modified: int


class Workspaces:
    """All sessions' directories, by their random names, below one directory."""

    def __init__(self, sessions: Path) -> None:
        self._sessions = sessions
        self._quick = Threads("workspace", QUICK)
        self._slow = Threads("tree", SLOW)
        self._copying = Threads("copy", COPYING)

    def place(self, directory: str) -> Place:
        """Where code finds its things."""
        home = self._sessions / directory
        return Place(home / WORKSPACE, home / "packages", home / "cache")

    async def create(self) -> str:
        """The name of a new session's directory. Raises StorageFailed, InsufficientStorage."""
        name = secrets.token_hex(8)
        await self._quick.run(self._make, name)
        return name

    async def before_run(self, directory: str, data: JsonObject, mirror: Mirror | None) -> Mirror:
        """What is missing is made; `.session_data.json` shows `data`. Free when it did already.

        Raises StorageFailed, InsufficientStorage.
        """
        return await self._quick.run(self._before_run, directory, data, mirror)

    async def after_run(
        self, directory: str, snapshot: Snapshot | None, mirror: Mirror | None
    ) -> AfterRun:
        """What changed since the snapshot, and since `before_run` gave that mirror.

        Raises StorageFailed.
        """
        return await self._quick.run(self._after_run, directory, snapshot, mirror)

    async def scan(self, directory: str) -> Snapshot:
        """The user's files as they are now. Raises StorageFailed."""
        return await self._slow.run(self._scan, directory)

    async def empty(self, directory: str) -> None:
        """Drop the files of a session that is not persistent; executions and packages stay.

        Nothing may run in it. Raises StorageFailed.
        """
        await self._slow.run(self._empty, directory)

    async def remove(self, directory: str) -> None:
        """Remove a session's directory; nothing may run in it. It need not be there.

        Out of sight at once: a crash leaves nothing half. What cannot be removed is logged.
        Raises StorageFailed.
        """
        await self._slow.run(self._remove, directory)

    async def copy(
        self, source: str, target: str, data: JsonObject, stopped: Callable[[], bool]
    ) -> Snapshot:
        """Copy files and packages into a new session's directory, with a mirror of `data`.

        Durable when it returns. Code may run in the source: what it changes meanwhile is copied
        before or after. `stopped` is asked in a thread. Raises Stopped, TooLarge, StorageFailed,
        InsufficientStorage; the target is then to be removed.
        """
        return await self._copying.run(self._copy, source, target, data, stopped)

    async def sweep(self, known: set[str]) -> None:
        """After a start: remove directories that no session names, make those that are missing.

        Names that are not of our making stay. Raises StorageFailed, InsufficientStorage.
        """
        await self._slow.run(self._sweep, known)

    async def aclose(self) -> None:
        """Finish what was begun; a second call is fine."""
        for threads in (self._quick, self._slow, self._copying):
            await asyncio.to_thread(threads.close)

    # ------------------------------------------------------------ in a thread

    def _make(self, name: str) -> None:
        home = self._sessions / name
        home.mkdir(mode=0o700)
        for part in PARTS:
            (home / part).mkdir(mode=0o700)

    def _before_run(self, directory: str, data: JsonObject, mirror: Mirror | None) -> Mirror:
        with self._opened(directory) as home:
            for part in PARTS:
                make_directory(home, part)
            with opened(open_directory(home, WORKSPACE)) as workspace:
                _make_usable(workspace)
                with opened(open_directory(home, "state")) as state:
                    return mirrors.written(workspace, state, data, mirror)

    def _after_run(
        self, directory: str, before: Snapshot | None, mirror: Mirror | None
    ) -> AfterRun:
        with self._opened(directory) as home:
            try:
                workspace = open_directory(home, WORKSPACE)
            except OSError:  # the code removed or replaced it; the next run gets a new one
                return _after(Snapshot(), before, None, None)
            with opened(workspace):
                after, data = (None, None) if mirror is None else mirrors.read(workspace, mirror)
                return _after(snapshots.taken(workspace), before, after, data)

    def _scan(self, directory: str) -> Snapshot:
        with self._opened(directory) as home:
            try:
                workspace = open_directory(home, WORKSPACE)
            except OSError:
                return Snapshot()
            with opened(workspace):
                snapshot = snapshots.taken(workspace)
        log.debug("a workspace was scanned", extra={"files": len(snapshot.files)})
        return snapshot

    def _empty(self, directory: str) -> None:
        with self._opened(directory) as home, self._opened("") as sessions:
            trash = _trash_name()
            with suppress(FileNotFoundError):
                os.rename(WORKSPACE, trash, src_dir_fd=home, dst_dir_fd=sessions)
                make_directory(home, WORKSPACE)
                remove_tree(sessions, trash)

    def _copy(
        self, source: str, target: str, data: JsonObject, stopped: Callable[[], bool]
    ) -> Snapshot:
        copies = Copies(stopped)
        with (
            self._opened(source) as old,
            self._opened(target) as place,
            opened(open_directory(place, ".")) as new,
            opened(open_directory(new, WORKSPACE)) as workspace,
            opened(open_directory(new, "state")) as state,
        ):
            for part in COPIED:
                copies.copy(old, new, part)
            mirrors.written(workspace, state, data, None)
            snapshot = snapshots.taken(workspace)
            copies.settle(new)
        with opened(os.open(self._sessions, os.O_RDONLY | os.O_CLOEXEC)) as sessions:
            os.fsync(sessions)
        return snapshot

    def _remove(self, directory: str) -> None:
        with self._opened("") as sessions:
            trash = _trash_name()
            try:
                os.rename(directory, trash, src_dir_fd=sessions, dst_dir_fd=sessions)
            except FileNotFoundError:
                return
            remove_tree(sessions, trash)

    def _sweep(self, known: set[str]) -> None:
        found = set(os.listdir(self._sessions))  # noqa: PTH208 - names, not paths
        for name in sorted(known - found):
            log.warning("the directory of a session was missing", extra={"directory": name})
            self._make(name)
        left = [name for name in sorted(found - known) if _OURS.fullmatch(name)]
        with self._opened("") as sessions:
            for name in left:
                log.info("a directory of no session is removed", extra={"directory": name})
                remove_tree(sessions, name)

    @contextmanager
    def _opened(self, directory: str) -> Iterator[int]:
        """A descriptor of a session's directory, or of the one that holds them all."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._sessions / directory, flags)
        except FileNotFoundError as error:
            raise StorageFailed("The session's directory is gone.") from error
        with opened(descriptor):
            yield descriptor


def _after(
    snapshot: Snapshot, before: Snapshot | None, mirror: Mirror | None, data: JsonObject | None
) -> AfterRun:
    modified = 0 if before is None else snapshot.changes(before)
    return AfterRun(snapshot, mirror, data, modified)


def _trash_name() -> str:
    return f"removed-{secrets.token_hex(8)}"


def _make_usable(workspace: int) -> None:
    """Code may have taken its owner's rights away. Raises OSError."""
    mode = stat.S_IMODE(os.fstat(workspace).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(workspace, mode | 0o700)

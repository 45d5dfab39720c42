"""Removes directories that may take long to remove, without keeping those waiting who want that.

Code can leave hundreds of thousands of entries, each of which costs the disk some work.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from era_kernels.safe_fs.openat import SHORTAGES
from era_kernels.safe_fs.tree import closing_fd, remove_tree

log = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds for which callers wait for a removal
STEP = 0.1  # seconds of work between two looks whether to stop
REST = 1.0  # seconds after a shortage, as of descriptors
_NICENESS = 10  # of the thread: whoever runs code goes first


class Trash:
    """One thread, which removes what callers did not wait for; it starts when it is needed."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self._is_closed = threading.Event()
        self._lock = threading.Lock()  # of the thread's start
        self._thread: threading.Thread | None = None

    def remove(self, path: Path, seconds: float = PATIENCE) -> None:
        """Removes a directory for so many seconds (blocking); the thread removes what is left then.

        Follows no link, and nothing may run in it. What the end of the server cuts short remains,
        and what comes after `close`: the next start has to find it.
        """
        if self._is_closed.is_set():
            return
        try:
            is_removed = remove_directory(path, seconds)
        except OSError as error:  # whoever deletes must not wait for descriptors
            if error.errno not in SHORTAGES:
                raise
            is_removed = False
        if not is_removed:
            self.add(lambda: remove_directory(path, STEP))

    def add(self, job: Callable[[], bool]) -> None:
        """Has the thread call this, which works for a moment, until it returns True.

        Where the system has no thread left, the next job that is added starts it.
        """
        if self._is_closed.is_set():
            return
        self._jobs.put(job)
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="era-trash", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    log.warning("no thread is left to remove what was deleted: later")
                    return
                self._thread = thread

    def close(self) -> None:
        """Stops soon, whatever is left (blocking); a second call is fine.

        One file may take long: the thread is not waited for longer than PATIENCE.
        """
        self._is_closed.set()
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (job := self._jobs.get()) is not None:
            try:
                while not self._is_closed.is_set() and not self._do(job):
                    pass
            except Exception:  # what comes behind must go all the same
                log.exception("what was to be removed remains")

    def _do(self, job: Callable[[], bool]) -> bool:
        """Calls a job, and rests after a shortage; returns whether it is done."""
        try:
            return job()
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
        self._is_closed.wait(REST)
        return False


def remove_directory(path: Path, seconds: float = math.inf) -> bool:
    """Removes a directory by its path, see `remove_tree`; a missing one is fine. Raises OSError."""
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    with closing_fd(parent):
        return remove_tree(parent, path.name, seconds)

"""Children of this process: told of their deaths, listed, ended to the last."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Container
from pathlib import Path
from types import FrameType


class SigchldPipe:
    """A descriptor that becomes readable when a child dies. At most one in a process."""

    def __init__(self) -> None:
        self.descriptor, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _no_op)  # without a handler there is no wake-up
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def drain(self) -> None:
        """Take all wake-ups; what died until now must be reaped after this."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def close(self) -> None:
        """Put everything back, as a forked child must."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.descriptor)
        os.close(self._write_end)


def reap_all(before_reap: Callable[[int], object] | None = None) -> list[tuple[int, int]]:
    """All children that are dead, as (pid, wait status).

    `before` is called with the pid of each while that cannot be the pid of another process yet.
    """
    dead = []
    with contextlib.suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                break
            if before_reap is not None:
                before_reap(found.si_pid)
            dead.append(os.waitpid(found.si_pid, 0))
    return dead


def list_children() -> list[int]:
    """The pids of all children, dead ones included that nobody waited for yet."""
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_child(path)]


def kill_all(exclude: Container[int] = (), timeout: float = 3.0) -> bool:
    """SIGKILL every child but the spared, and what they leave behind, until nobody is left.

    Only a subreaper ends grandchildren, too: they become its children when their parents die.
    Tells whether that was done within `patience` (seconds).
    """
    deadline = time.monotonic() + timeout
    pause = 0.0002
    while True:
        remaining = [pid for pid in list_children() if pid not in exclude]
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if not remaining:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _no_op(number: int, frame: FrameType | None) -> None:
    """A handler, so that the C level of the interpreter writes to the wake-up descriptor."""


def _is_child(process: Path) -> bool:
    try:
        # The name in parentheses may hold anything; behind it: state, ppid.
        fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[1]) == os.getpid()

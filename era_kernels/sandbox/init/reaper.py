"""Notices the deaths of this process's children, lists, reaps and kills them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Container
from pathlib import Path
from types import FrameType

from era_kernels.sandbox.linux import syscalls

MAX_REAPED = 256  # children in one call; code can make new ones without end
_ENDED = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)


class SigchldPipe:
    """Makes a descriptor readable when a child dies; a process has at most one."""

    def __init__(self) -> None:
        self.descriptor, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _no_op)  # without a handler nothing is written
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def drain(self) -> None:
        """Reads all wake-ups; children that died before this call must be reaped after it."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def close(self) -> None:
        """Restores the signal handling and closes the pipe, as a forked child must."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.descriptor)
        os.close(self._write_end)


def reap_all(before_reap: Callable[[int], object] | None = None) -> list[tuple[int, int]]:
    """Reaps dead children and returns them as (pid, wait status).

    `before_reap` is called with each pid while it cannot be the pid of another process yet. After
    MAX_REAPED children this returns, too: SIGCHLD, which it then raises, brings the caller back.
    A child that asked to be traced by its parent (PTRACE_TRACEME) has not ended when it stops: it
    is let go, and gets the signal at which it stopped.
    """
    dead: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        for _ in range(MAX_REAPED):
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return dead
            if found.si_code not in _ENDED:
                with contextlib.suppress(ProcessLookupError):  # it was killed: the next is its end
                    syscalls.detach_traced(found.si_pid, found.si_status)
                continue
            if before_reap is not None:
                before_reap(found.si_pid)
            dead.append(os.waitpid(found.si_pid, 0))
        signal.raise_signal(signal.SIGCHLD)
    return dead


def list_children() -> list[int]:
    """Returns the pids of all children, including dead ones that were not reaped."""
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_child(path)]


def kill_all(exclude: Container[int] = (), timeout: float = 3.0) -> bool:
    """Kills every child but the excluded, and their orphans, until none is left.

    Only a subreaper kills grandchildren, too: they become its children when their parents die.
    Returns False when some are left after `timeout` (seconds).
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
    """Does nothing: with a handler the interpreter writes to the wake-up descriptor."""


def _is_child(process: Path) -> bool:
    try:
        # The name in parentheses may hold anything; behind it: state, ppid.
        fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[1]) == os.getpid()

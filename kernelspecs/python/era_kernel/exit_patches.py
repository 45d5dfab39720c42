"""Calls that end the process at once: what was written before must be out when they do."""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any


def install(on_exit: Callable[[], object], crash_fd: int) -> None:
    """Patch `os` and `faulthandler`. `farewell` sends what there is, in this process only."""
    pid = os.getpid()
    real_exit, real_kill, real_abort, real_enable = os._exit, os.kill, os.abort, faulthandler.enable

    @functools.wraps(real_exit)
    def exit_after_flush(status: int) -> None:
        if os.getpid() == pid:
            on_exit()
        real_exit(status)

    @functools.wraps(real_kill)
    def kill_after_flush(target: int, number: int, /) -> None:
        if number == signal.SIGKILL and target == pid == os.getpid():
            on_exit()
        real_kill(target, number)

    @functools.wraps(real_abort)
    def abort_after_flush() -> None:
        if os.getpid() == pid:
            on_exit()
        real_abort()

    @functools.wraps(real_enable)
    def enable_on_crash_fd(file: Any = crash_fd, *args: Any, **kwargs: Any) -> None:
        # A crash leaves nobody to read our pipes; the server reads the descriptor of the start.
        real_enable(file, *args, **kwargs)

    os._exit = exit_after_flush  # type: ignore[assignment]
    os.kill = kill_after_flush
    os.abort = abort_after_flush  # type: ignore[assignment]
    faulthandler.enable = enable_on_crash_fd
    # A plain interpreter dies without a word, its shell has one; here the server tells these.
    real_enable(crash_fd, all_threads=False)
    # Python 3.12 warns of threads, but those are ours and not the program's.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of", DeprecationWarning)

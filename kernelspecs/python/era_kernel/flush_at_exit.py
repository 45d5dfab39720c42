"""Patches the calls that end the process at once, so that earlier output is sent first."""

from __future__ import annotations

import faulthandler
import os
import posix
import warnings
from collections.abc import Callable
from functools import wraps
from os import getpid
from signal import SIGKILL
from sys import version_info
from typing import Any

_filter_warnings = warnings.filterwarnings


def install(on_exit: Callable[[], object], crash_fd: int) -> None:
    """Patches `os` and `faulthandler`; `on_exit` sends all output, and is not called in forks."""
    pid = getpid()
    real_exit, real_kill, real_abort, real_enable = os._exit, os.kill, os.abort, faulthandler.enable

    @wraps(real_exit)
    def exit_after_flush(status: int) -> None:
        if getpid() == pid:
            on_exit()
        real_exit(status)

    @wraps(real_kill)
    def kill_after_flush(target: int, number: int, /) -> None:
        if number == SIGKILL and target == pid == getpid():
            on_exit()
        real_kill(target, number)

    @wraps(real_abort)
    def abort_after_flush() -> None:
        if getpid() == pid:
            on_exit()
        real_abort()

    @wraps(real_enable)
    def enable_on_crash_fd(file: Any = crash_fd, *args: Any, **kwargs: Any) -> None:
        # After a crash nobody reads our own pipes; the server reads the stderr of the start.
        real_enable(file, *args, **kwargs)

    # `posix` is where pickle looks for them.
    os._exit = posix._exit = exit_after_flush  # type: ignore[assignment]
    os.kill = posix.kill = kill_after_flush
    os.abort = posix.abort = abort_after_flush  # type: ignore[assignment]
    faulthandler.enable = enable_on_crash_fd
    # A plain interpreter crashes silently, and its shell reports that; here the server reports what
    # faulthandler writes.
    real_enable(crash_fd, all_threads=False)
    # Python 3.12 warns of threads at a fork, but those are the kernel's and not the program's.
    if version_info >= (3, 12):
        _filter_warnings("ignore", ".*multi-threaded, use of", DeprecationWarning)

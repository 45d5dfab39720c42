"""Calls that end the process at once: what was written before must be out when they do."""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any


def install(farewell: Callable[[], object], last_words: int) -> None:
    """Patch `os` and `faulthandler`. `farewell` sends what there is, in this process only."""
    pid = os.getpid()
    leave, kill, abort, enable = os._exit, os.kill, os.abort, faulthandler.enable

    @functools.wraps(leave)
    def leave_orderly(status: int) -> None:
        if os.getpid() == pid:
            farewell()
        leave(status)

    @functools.wraps(kill)
    def kill_orderly(target: int, number: int, /) -> None:
        if number == signal.SIGKILL and target == pid == os.getpid():
            farewell()
        kill(target, number)

    @functools.wraps(abort)
    def abort_orderly() -> None:
        if os.getpid() == pid:
            farewell()
        abort()

    @functools.wraps(enable)
    def enable_aside(file: Any = last_words, *args: Any, **kwargs: Any) -> None:
        # A crash leaves nobody to read our pipes; the server reads the descriptor of the start.
        enable(file, *args, **kwargs)

    os._exit = leave_orderly  # type: ignore[assignment]
    os.kill = kill_orderly
    os.abort = abort_orderly  # type: ignore[assignment]
    faulthandler.enable = enable_aside
    # A plain interpreter dies without a word, its shell has one; here the server tells these.
    enable(last_words, all_threads=False)
    # Python 3.12 warns of threads, but those are ours and not the program's.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of", DeprecationWarning)

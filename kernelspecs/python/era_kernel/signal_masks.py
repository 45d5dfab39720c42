"""Starts the kernel's own threads with all signals blocked.

A signal for the process goes to any thread that has not blocked it. A program may have blocked one
in its own thread, to wait for it: in a thread of the kernel it would end the process. A new thread
has the mask of the one that starts it (pthread_sigmask(3)), so there is no moment in which it has
none.
"""

from __future__ import annotations

from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Blocks all signals in this thread, and those that it starts meanwhile; restores its mask."""
    mask = pthread_sigmask(SIG_BLOCK, valid_signals())
    try:
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, mask)


def start_kernel_thread(function: Callable[..., object], *arguments: Any) -> int:
    """Starts a thread that gets no signal; returns its identifier.

    It is no `threading.Thread`: programs that count or list threads must not see it.
    """
    with signals_blocked():
        return start_new_thread(function, arguments)

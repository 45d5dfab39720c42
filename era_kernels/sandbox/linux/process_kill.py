"""Kills processes that are found by lists, so that no reused pid is hit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import islice

BATCH = 64  # processes that are held by a descriptor at once


def kill_listed(list_pids: Callable[[], Collection[int]]) -> int:
    """Sends SIGKILL to every process that is listed; returns how many those were (blocking).

    A process gets it only if it is listed before and after a descriptor holds it: its pid belongs
    to nobody else then, see pidfd_open(2). Those that are listed later need another call.
    """
    found = iter(pids := list(list_pids()))
    while batch := list(islice(found, BATCH)):
        held = {pid: descriptor for pid in batch if (descriptor := _hold(pid)) is not None}
        try:
            for pid in held.keys() & set(list_pids()):
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(held[pid], signal.SIGKILL)
        finally:
            for descriptor in held.values():
                os.close(descriptor)
    return len(pids)


def _hold(pid: int) -> int | None:
    """Returns a descriptor of the process, or None: it is gone, or no descriptor is free."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None

"""What Python's standard library does not offer of Linux: prctl(2) and close_range(2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SYS_CLOSE_RANGE = 436  # the same number on every architecture
_LAST = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, argument: int = 0) -> None:
    """prctl(2) with one number as its argument. Raises OSError."""
    unused = ctypes.c_ulong(0)
    result = _libc.prctl(option, ctypes.c_ulong(argument), unused, unused, unused)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def close_except(keep: Iterable[int]) -> None:
    """Close every descriptor of this process but these."""
    first = 0
    for descriptor in sorted(set(keep)):
        _close_range(first, descriptor - 1)
        first = descriptor + 1
    _close_range(first, _LAST)


def descriptors() -> set[int]:
    """The descriptors that this process has open."""
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    # One of them was the directory itself, which is closed by now.
    return {int(name) for name in names if _is_open(int(name))}


def threads() -> int:
    """How many threads this process has, those that Python knows nothing of included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - Path would only wrap it


def _close_range(first: int, last: int) -> None:
    if first > last:
        return
    flags = ctypes.c_uint(0)
    if _libc.syscall(SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), flags) == 0:
        return
    for descriptor in descriptors():  # before Linux 5.9
        if first <= descriptor <= last:
            os.close(descriptor)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

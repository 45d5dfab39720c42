"""Keeps the descriptors of the kernel open where a program closes all that it does not know.

Daemons do so. A plain program has none but its own, so what is not its own is, for a program, not
open at all. In forks everything can be closed.
"""

from __future__ import annotations

import os
import posix
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EBADF
from functools import wraps
from operator import index
from os import fstat, getpid, scandir, strerror
from socket import socket
from stat import S_ISSOCK
from typing import Any


def install(is_pipe: Callable[[int], bool]) -> None:
    """Protects all that is open now, before any program runs.

    `is_pipe` tells whether a descriptor is one of the kernel's that come and go with the runs.
    """
    _patch(_KernelDescriptors(is_pipe))


class _KernelDescriptors:
    """Knows which descriptors are the kernel's own."""

    def __init__(self, is_pipe: Callable[[int], bool]) -> None:
        self._is_pipe = is_pipe
        self._lasting: set[int] = set()
        self._socket_names: set[Any] = set()  # the addresses of the kernel's own sockets
        for number in _open_descriptors():
            name = _socket_name(number)
            if name is not None:
                self._socket_names.add(name)
            elif number > 2 and not self._is_pipe(number):
                self._lasting.add(number)

    def owns(self, number: int) -> bool:
        """Returns whether a descriptor is open and the kernel's own."""
        return (
            number in self._lasting
            or self._is_pipe(number)
            or _socket_name(number) in self._socket_names  # connections have the listener's address
        )

    def find_owned(self, low: int, high: int) -> list[int]:
        """Returns the kernel's own descriptors from `low` on, below `high`, in order."""
        return [n for n in _open_descriptors() if low <= n < high and self.owns(n)]


def _patch(kernel: _KernelDescriptors) -> None:
    """Patches the calls of `os` that close descriptors."""
    pid = getpid()
    real_close, real_range, real_dup2 = os.close, os.closerange, os.dup2

    def is_protected(descriptor: Any) -> bool:
        with suppress(Exception):  # no number: the real call says so
            return getpid() == pid and kernel.owns(index(descriptor))
        return False

    @wraps(real_close)
    def close(*args: Any, **named: Any) -> None:
        if is_protected(args[0] if args else named.get("fd")):
            raise OSError(EBADF, strerror(EBADF))
        real_close(*args, **named)

    @wraps(real_range)
    def closerange(*limits: Any) -> None:
        if len(limits) != 2 or getpid() != pid:
            return real_range(*limits)
        start, end = map(index, limits)
        for number in kernel.find_owned(start, end):
            real_range(start, number)
            start = number + 1
        return real_range(start, end)

    @wraps(real_dup2)
    def dup2(*args: Any, **named: Any) -> int:
        if is_protected(args[1] if len(args) > 1 else named.get("fd2")):
            raise OSError(EBADF, strerror(EBADF))
        return real_dup2(*args, **named)

    # `posix` is where pickle looks for them.
    os.close = posix.close = close
    os.closerange = posix.closerange = closerange
    os.dup2 = posix.dup2 = dup2  # type: ignore[assignment]


def _open_descriptors() -> Iterator[int]:
    """Yields the numbers that are open, in order."""
    with scandir("/proc/self/fd") as entries:
        numbers = sorted(int(entry.name) for entry in entries)
    for number in numbers:
        with suppress(OSError):  # the one that listed them is closed again
            fstat(number)
            yield number


def _socket_name(number: int) -> Any:
    """Returns the address of a socket; None if the descriptor is no socket or has none."""
    try:
        if not S_ISSOCK(fstat(number).st_mode):
            return None
        sock = socket(fileno=number)
    except OSError:
        return None
    try:
        return sock.getsockname() or None
    finally:
        sock.detach()

"""Flushes the output buffers of C's standard library, which C code of the program filled."""

from __future__ import annotations

from contextlib import suppress
from ctypes import CDLL, c_void_p

_libc = CDLL(None)
_fflush = _libc.fflush
_fflush.argtypes = [c_void_p]
_streams = []
for _name in ("stdout", "stderr"):
    with suppress(ValueError):  # a C library that names them otherwise
        _streams.append(c_void_p.in_dll(_libc, _name))


def flush() -> None:
    """Writes what `printf` and the like left in the buffers of stdout and stderr.

    Not `fflush(NULL)`: that waits for every stream, also for one that a thread is reading.
    """
    for stream in _streams:
        _fflush(stream)

"""Sends all output when C code ends the process by `exit`, which no Python code sees.

Libraries do so that cannot go on: OpenBLAS where it gets no memory, for example.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, c_void_p, cast
from os import getpid, register_at_fork
from typing import Any

from era_kernel import c_stdio

_library = CDLL(None)
_register = _library.__cxa_atexit  # as C++ does it; glibc's `atexit` is not to be found by name
_finalize = _library.__cxa_finalize
_callbacks: list[Any] = []  # which C code refers to


def install(on_exit: Callable[[], object]) -> None:
    """Registers `on_exit`, not for forks. The interpreter must not be finalized before `exit`.

    A fork of a thread ends by `exit` when that thread does, and has nothing left then that could
    run Python code. So forks forget the function: C calls it once, at the latest there.
    """
    pid = getpid()

    def send_output(_: object) -> None:
        if getpid() == pid:
            c_stdio.flush()
            on_exit()

    callback = CFUNCTYPE(None, c_void_p)(send_output)
    _callbacks.append(callback)
    library = cast(callback, c_void_p)  # the name of a library of its own: any address will do
    _register(callback, None, library)
    register_at_fork(after_in_child=lambda: _finalize(library))

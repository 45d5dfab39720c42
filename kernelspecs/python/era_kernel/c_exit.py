"""Sends all output when C code ends the process by `exit`, which no Python code sees.

Libraries do so that cannot go on: OpenBLAS where it gets no memory, for example.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, c_void_p
from os import getpid
from typing import Any

from era_kernel import c_stdio

_register = CDLL(None).__cxa_atexit  # as C++ does it; glibc's `atexit` is not to be found by name
_callbacks: list[Any] = []  # which C code refers to


def install(on_exit: Callable[[], object]) -> None:
    """Registers `on_exit`, not for forks. The interpreter must not be finalized before `exit`."""
    pid = getpid()

    def send_output(_: object) -> None:
        if getpid() == pid:
            c_stdio.flush()
            on_exit()

    callback = CFUNCTYPE(None, c_void_p)(send_output)
    _callbacks.append(callback)
    _register(callback, None, None)

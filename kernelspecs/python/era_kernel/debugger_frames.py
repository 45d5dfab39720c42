"""Keeps the kernel's own frames out of debuggers: their stack begins at the cell."""

from __future__ import annotations

import asyncio
import bdb
import functools
import threading
from types import FrameType, TracebackType
from typing import Any

from era_kernel.tracebacks import KERNEL_PATHS

_HANDLE_RUN_CODE = asyncio.Handle._run.__code__  # from where the kernel's loop calls what is due
_CELL_PREFIX = "<cell "

Stack = list[tuple[FrameType, int]]  # outermost first, each frame with its line


def install() -> None:
    """Patches the base class of all debuggers."""
    get_stack, stop_here = bdb.Bdb.get_stack, bdb.Bdb.stop_here

    @functools.wraps(get_stack)
    def get_program_stack(
        self: bdb.Bdb, f: FrameType | None, t: TracebackType | None
    ) -> tuple[Stack, int]:
        stack, at = get_stack(self, f, t)
        shown = _without_kernel(stack)
        selected = stack[at] if at < len(stack) else None
        return shown, shown.index(selected) if selected in shown else len(shown) - 1

    @functools.wraps(stop_here)
    def stop_in_program(self: bdb.Bdb, frame: FrameType) -> Any:
        """Stops nowhere in the kernel, and not in what has called it."""
        return _is_in_program(frame) and stop_here(self, frame)

    bdb.Bdb.get_stack = get_program_stack  # type: ignore[method-assign,assignment]
    bdb.Bdb.stop_here = stop_in_program  # type: ignore[method-assign]


def _without_kernel(stack: Stack) -> Stack:
    """Returns the frames that a program has, or all when none is one."""
    codes = [frame.f_code for frame, _ in stack]
    first = codes.index(_HANDLE_RUN_CODE) + 1 if _HANDLE_RUN_CODE in codes else 0
    shown = [entry for entry in stack[first:] if not _is_kernel_frame(entry[0])]
    return shown or stack


def _is_in_program(frame: FrameType) -> bool:
    if _is_kernel_frame(frame):
        return False
    if threading.current_thread() is not threading.main_thread():
        return True
    if frame.f_code.co_filename.startswith(_CELL_PREFIX):
        return True
    caller = frame.f_back
    while caller is not None:
        if caller.f_code is _HANDLE_RUN_CODE or caller.f_code.co_filename.startswith(_CELL_PREFIX):
            return True
        caller = caller.f_back
    return False


def _is_kernel_frame(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(KERNEL_PATHS)

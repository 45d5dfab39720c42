"""Keeps the kernel's own frames out of what programs see of their stack: it begins at the cell.

`inspect.stack`, `traceback.print_stack`, the places that warnings and log records name: all of them
walk from frame to frame, and below the program's outermost frame come those of the kernel.
"""

from __future__ import annotations

import _warnings
import inspect
import logging
import warnings
from collections.abc import Iterator
from functools import wraps
from sys import _getframe as get_frame
from sys import modules
from types import FrameType
from typing import Any

from era_kernel.program_signals import ProgramSignals
from era_kernel.tracebacks import KERNEL_PATHS

NO_FRAME = 1_000_000_000  # as a stack level: further out than any frame

_call_program_code = ProgramSignals.call.__code__  # through which the kernel calls the program


def install() -> None:
    """Patches `inspect`, `logging`, `traceback` and `warnings`."""
    inspect.getouterframes = _wrap_getouterframes(inspect.getouterframes)
    logging.Logger.findCaller = _wrap_find_caller(  # type: ignore[method-assign]
        logging.Logger.findCaller
    )
    traceback: Any = modules["traceback"]  # the program's: the kernel has one of its own
    traceback.walk_stack = _wrap_walk_stack(traceback.walk_stack)
    # `_warnings` is where pickle looks for it.
    warnings.warn = _warnings.warn = _wrap_warn(warnings.warn)


def _program_frames(innermost: FrameType | None) -> Iterator[FrameType]:
    """Yields the frames of the program from one on outwards."""
    frame = innermost
    while frame is not None and frame.f_code is not _call_program_code:
        if not frame.f_code.co_filename.startswith(KERNEL_PATHS):
            yield frame
        frame = frame.f_back


def _wrap_getouterframes(get_outer: Any) -> Any:
    @wraps(get_outer)
    def getouterframes(frame: Any, context: int = 1) -> Any:
        shown = {id(outer) for outer in _program_frames(frame)}
        return [info for info in get_outer(frame, context) if id(info.frame) in shown]

    return getouterframes


def _wrap_walk_stack(walk_all: Any) -> Any:
    @wraps(walk_all)
    def walk_stack(f: Any = None) -> Any:
        if f is None:
            return walk_all(f)
        return ((frame, frame.f_lineno) for frame in _program_frames(f))

    return walk_stack


def _wrap_find_caller(find: Any) -> Any:
    """Wraps the method that names the place of a log record, the outermost one if need be."""

    @wraps(find)
    def find_caller(self: Any, stack_info: bool = False, stacklevel: int = 1) -> Any:
        frames = _program_frames(get_frame(1))
        count = sum(not _is_of(frame, logging) for frame in frames)
        return find(self, stack_info, min(stacklevel, count or 1) + 1)

    return find_caller


def _wrap_warn(warn_at: Any) -> Any:
    """Wraps `warnings.warn`; a place that is further out than the program is none."""

    @wraps(warn_at)
    def warn(
        message: Any, category: Any = None, stacklevel: Any = 1, source: Any = None, **named: Any
    ) -> Any:
        prefixes = named.get("skip_file_prefixes")  # since Python 3.12
        if prefixes:
            named["skip_file_prefixes"] = (*prefixes, *KERNEL_PATHS)
            level = stacklevel
        else:
            level = _full_level(get_frame(1), stacklevel) if stacklevel > 1 else 2
        return warn_at(message, category, level, source, **named)

    return warn


def _full_level(caller: FrameType, level: int) -> int:
    """Returns the level of a frame of the program among all frames but those of importing.

    The innermost one is the wrapper of `warnings.warn`.
    """
    shown = {id(frame): None for frame in _program_frames(caller)}
    frame: FrameType | None = caller
    full_level = 1
    while frame is not None and shown:
        if not _is_importing(frame):
            full_level += 1
            level -= id(frame) in shown
            if not level:
                return full_level
        shown.pop(id(frame), None)
        frame = frame.f_back
    return NO_FRAME


def _is_importing(frame: FrameType) -> bool:
    """Returns whether a frame is of the code that imports, which warnings pass over."""
    name = frame.f_code.co_filename
    return "importlib" in name and "_bootstrap" in name


def _is_of(frame: FrameType, module: Any) -> bool:
    return frame.f_code.co_filename == module.__file__ or _is_importing(frame)

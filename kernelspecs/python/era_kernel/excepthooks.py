"""Prints uncaught errors of threads and destructors as the plain interpreter does.

Python's own hooks print tracebacks in C, which finds no source lines of cells.
"""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from typing import Any

from era_kernel import tracebacks
from era_kernel.run_context import current

MAX_LATE_ERRORS = 100  # errors that cannot be raised and are told after the end of a run

WriteText = Callable[[str], None]

_class_name = type.__dict__["__name__"].__get__  # whatever a metaclass says


def install(write_stderr: WriteText) -> None:
    """Sets the hooks of `threading` and of exceptions that cannot be raised."""

    def thread_excepthook(args: Any) -> None:
        if args.exc_type is SystemExit:
            return
        name = _thread_name(args.thread)
        write_stderr(f"Exception in thread {name}:\n{_format(args.exc_type, args.exc_value)}")

    is_telling = False
    late_count = 0

    def unraisable_hook(args: Any) -> None:
        # A callback of the garbage collector that fails is called again while its error is told.
        nonlocal is_telling, late_count
        late_count = late_count + 1 if current().stderr.is_late else 0
        if is_telling or late_count > MAX_LATE_ERRORS:
            return
        is_telling = True
        try:
            tell_unraisable(args)
        finally:
            is_telling = False

    def tell_unraisable(args: Any) -> None:
        message = args.err_msg or "Exception ignored in"
        if args.object is not None:
            write_stderr(f"{message}: {_safe_repr(args.object)}\n")
        elif args.err_msg:
            write_stderr(f"{message}:\n")
        write_stderr(_format(args.exc_type, args.exc_value))

    threading.excepthook = thread_excepthook
    sys.unraisablehook = unraisable_hook


def _thread_name(thread: Any) -> object:
    try:
        return get_ident() if thread is None else str(thread.name)
    except BaseException:  # a program's own thread class may do anything in its properties
        return get_ident()


def _format(kind: type[BaseException], error: BaseException | None) -> str:
    """Returns the traceback, or only the name of its class where the error defends itself."""
    name = _class_name(kind)
    if error is None:
        return f"{name}\n"
    try:
        tracebacks.remove_kernel_frames(error)
        return tracebacks.format_exception(error)
    except BaseException as problem:
        return f"{name}: <traceback failed: {_class_name(type(problem))}>\n"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException:
        return "<object repr() failed>"

"""Prints uncaught errors of threads and destructors as the plain interpreter does.

Python's own hooks print tracebacks in C, which finds no source lines of cells.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from era_kernel import tracebacks

WriteText = Callable[[str], None]


def install(write_stderr: WriteText) -> None:
    """Sets the hooks of `threading` and of exceptions that cannot be raised."""

    def thread_excepthook(args: Any) -> None:
        if args.exc_type is not SystemExit:
            name = threading.get_ident() if args.thread is None else args.thread.name
            write_stderr(f"Exception in thread {name}:\n{_format_without_kernel(args.exc_value)}")

    def unraisable_hook(args: Any) -> None:
        message = args.err_msg or "Exception ignored in"
        if args.object is not None:
            write_stderr(f"{message}: {_safe_repr(args.object)}\n")
        elif args.err_msg:
            write_stderr(f"{message}:\n")
        write_stderr(_format_without_kernel(args.exc_value))

    threading.excepthook = thread_excepthook
    sys.unraisablehook = unraisable_hook


def _format_without_kernel(error: BaseException) -> str:
    tracebacks.remove_kernel_frames(error)
    return tracebacks.format_exception(error)


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return "<object repr() failed>"

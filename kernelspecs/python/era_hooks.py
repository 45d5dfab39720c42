"""Errors that no program catches, outside of its main line: told as the plain interpreter does.

Python's own hooks print tracebacks in C, which finds no source lines of cells.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import era_traceback

Complain = Callable[[str], None]


def install(complain: Complain) -> None:
    """Set the hooks of `threading` and of exceptions that cannot be raised."""

    def in_thread(args: Any) -> None:
        if args.exc_type is not SystemExit:
            name = threading.get_ident() if args.thread is None else args.thread.name
            complain(f"Exception in thread {name}:\n{_text(args.exc_value)}")

    def unraisable(args: Any) -> None:
        head = args.err_msg or "Exception ignored in"
        if args.object is not None:
            complain(f"{head}: {_repr(args.object)}\n")
        elif args.err_msg:
            complain(f"{head}:\n")
        complain(_text(args.exc_value))

    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


def _text(error: BaseException) -> str:
    era_traceback.clean(error)
    return era_traceback.text(error)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return "<object repr() failed>"

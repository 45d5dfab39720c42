"""Has the interpreter take all memory from the C library, which can give back single pages.

The interpreter's own allocator gives back a megabyte when nothing at all is left in it: after a
body of a million values, some dozens of numbers that live on keep as many megabytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

VARIABLE = "PYTHONMALLOC"


def use_c_library() -> None:
    """Starts this program anew, in this process, unless it takes its memory there already.

    An operator who has set the variable has chosen. What this program starts does not inherit it.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen == "malloc":
        del os.environ[VARIABLE]
    can_give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) is not None
    # The interpreter counts only the blocks of its own allocator.
    if chosen is not None or not can_give_back or not sys.getallocatedblocks():
        return
    with suppress(OSError):
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: "malloc"}
        )

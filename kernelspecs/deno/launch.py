"""Becomes Deno with the kernel in it, and with pipes at descriptors 0, 1 and 2.

    python launch.py DENO MAIN [ARGUMENT…]

Deno runs as `deno repl`, for `deno run` ends when code was stopped in the middle. The kernel is
what it evaluates first; then it reads lines from descriptor 0. Each line waits for ever; after a
fault in the event loop it reads the next. It takes in all of them at once, so that programs and
their children find the end of the file.

The other ends of the pipes for 1 and 2, and the stderr that was there before, are handed on in one
more argument, `--pipes=A,B,C`.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from contextlib import suppress

PIPE_BYTES = 256 * 1024
LINE = b"await __era.waiting\n"
READ_BYTES = 8192  # what Deno takes in at once


def main() -> None:
    deno, main_file, *arguments = sys.argv[1:]
    stderr = os.dup(2)
    readers = [_replace_output(number) for number in (1, 2)]
    _replace_input()
    for descriptor in (*readers, stderr):
        os.set_inheritable(descriptor, True)
    pipes = ",".join(map(str, (*readers, stderr)))
    # Later than the line itself, which the inspector evaluates: it is opened outside of its calls.
    # Until the kernel is there, no line is read, of which each would end at once.
    code = (
        "await new Promise((resolve) => setTimeout(resolve, 0));"
        'await process.getBuiltinModule("module").createRequire("file:///")'
        f"({json.dumps(os.path.realpath(main_file))})"
    )
    command = ["repl", "--quiet", "--allow-all", f"--eval={code}", "--"]
    os.execv(deno, [deno, *command, *arguments, f"--pipes={pipes}"])


def _replace_output(number: int) -> int:
    """Puts a pipe in the place of a descriptor; returns its read end."""
    reader, writer = os.pipe()
    with suppress(AttributeError, OSError):  # the user's pipes are too large already
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.dup2(writer, number)
    os.close(writer)
    return reader


def _replace_input() -> None:
    reader, writer = os.pipe()
    os.write(writer, LINE * (READ_BYTES // len(LINE)))
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)


main()

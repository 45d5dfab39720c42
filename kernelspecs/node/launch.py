"""Becomes Node with pipes at descriptors 1 and 2, whose other ends Node's own worker reads.

    python launch.py NODE [ARGUMENT…]

Node itself can neither make pipes nor put a file in the place of a descriptor. Node gets one more
argument, `--pipes=A,B,C`: the read ends for 1 and 2, and the stderr that was there before.

Each session waits for this: it imports nothing that the interpreter does not have anyway.
"""

import fcntl
import os
import sys

PIPE_BYTES = 256 * 1024


def main() -> None:
    readers = []
    stderr = os.dup(2)
    for number in (1, 2):
        reader, writer = os.pipe()
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except (AttributeError, OSError):  # noqa: SIM105 - contextlib takes 3 ms to import
            pass  # not on this system, or the user's pipes are too large already
        os.dup2(writer, number)
        os.close(writer)
        readers.append(reader)
    for descriptor in (*readers, stderr):
        os.set_inheritable(descriptor, True)
    program, *arguments = sys.argv[1:]
    pipes = ",".join(map(str, (*readers, stderr)))
    os.execvp(program, [program, *arguments, f"--pipes={pipes}"])


main()

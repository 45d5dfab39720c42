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
KERNEL_MB = 64  # what Node and the kernel take beside the program
MAX_HALF_MB = 64  # what V8 takes by itself where memory is no concern
MIN_OLD_MB = 32


def enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (AttributeError, OSError):
        return  # not on this system, or the user's pipes are too large already


def heap_options() -> list[str]:
    """Returns options by which V8 collects garbage before the session's memory is used up."""
    memory = int(os.environ.get("ERA_MEMORY_MB", 0))
    if not memory:
        return []
    half = max(1, min(MAX_HALF_MB, memory // 64))
    rest = memory - KERNEL_MB - 3 * half  # 3: so many halves has the space of young objects
    # A quarter is left to what V8 does not count as its heap: buffers, and memory of Node's own.
    old = max(MIN_OLD_MB, rest * 3 // 4)
    return [f"--max-semi-space-size={half}", f"--max-old-space-size={old}"]


def main() -> None:
    readers = []
    stderr = os.dup(2)
    for number in (1, 2):
        reader, writer = os.pipe()
        enlarge(writer)
        os.dup2(writer, number)
        os.close(writer)
        readers.append(reader)
    for descriptor in (*readers, stderr):
        os.set_inheritable(descriptor, True)
    program, *arguments = sys.argv[1:]
    arguments[:0] = heap_options()
    pipes = ",".join(map(str, (*readers, stderr)))
    os.execvp(program, [program, *arguments, f"--pipes={pipes}"])


main()

"""Runs a command whose processes all end when this program's standard input does.

The installer holds the other end of that pipe. However it ends, nothing of the command is left to
write into a directory that the next installer works on. This program runs by itself and imports
nothing of the package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> int:
    """Runs the command of the arguments; returns its exit code, 128 and more for a signal."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        os.write(2, f"{sys.argv[1]}: {error.strerror}\n".encode())
        return 127
    threading.Thread(target=_kill_at_end_of_input, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _kill_descendants()
    return code if code >= 0 else 128 - code


def _kill_at_end_of_input(group: int) -> None:
    while os.read(0, 1):
        pass
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _kill_descendants() -> None:
    """Ends what the command left behind: orphans become children of this process."""
    while True:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    pids: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            pids += map(int, file.read_text().split())
    return pids


if __name__ == "__main__":
    sys.exit(main())

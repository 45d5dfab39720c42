"""sys.stdin, sys.stdout and sys.stderr of the user's program: real text streams on our output.

They are `io.TextIOWrapper`s as in every interpreter, so `reconfigure`, `detach`, `encoding` and the
rest are the real ones; only the binary stream below hands its bytes to the ordered queue.
"""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from typing import Any

from era_output import Output

FORMER = 64  # streams of earlier runs that are kept


class Binary(io.BufferedIOBase):
    """`sys.stdout.buffer`: unbuffered, for the queue is the buffer."""

    mode = "wb"

    def __init__(self, output: Output, name: str, descriptor: int) -> None:
        self._output = output
        self._stream = name
        self._descriptor = descriptor
        self.name = f"<{name}>"

    def write(self, data: Any, /) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        data = bytes(memoryview(data))
        self._output.write(self._stream, data)
        return len(data)

    def flush(self) -> None:
        if self.closed:
            raise ValueError("flush of closed file")
        self._output.flush()

    def close(self) -> None:
        # The descriptor stays open: the next run of the session needs it.
        if not self.closed:
            super().close()

    @property
    def raw(self) -> io.FileIO:  # type: ignore[override]
        return io.FileIO(self._descriptor, "wb", closefd=False)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


class Streams:
    """Puts the three streams in place: each run starts with new ones, whatever became of the old.

    Who kept an old one can go on using it.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        # Lost references would close the descriptors that they are for.
        self._originals = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        # A `print` that is under way in a thread uses sys.stdout without a reference of its own
        # (before Python 3.14): the process would crash if the stream were gone when it goes on.
        self._former: deque[io.TextIOBase | None] = deque(maxlen=FORMER)

    def install(self) -> None:
        self._former += (sys.stdout, sys.stderr)  # type: ignore[arg-type]
        # Lenient as a plain interpreter is in the locale of sessions, C.UTF-8.
        sys.stdout = sys.__stdout__ = self._make("stdout", 1, "surrogateescape")
        sys.stderr = sys.__stderr__ = self._make("stderr", 2, "backslashreplace")
        if sys.stdin is None or not _usable(sys.stdin):
            sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)

    def flush(self) -> None:
        """What a plain interpreter flushes at its end; a broken stream has nothing more to say."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                continue

    def complain(self, text: str) -> None:
        """Write to sys.stderr, whatever it is by now."""
        try:
            sys.stderr.write(text)
        except Exception:
            self._output.write("stderr", text.encode(errors="backslashreplace"))

    def _make(self, name: str, descriptor: int, errors: str) -> io.TextIOWrapper:
        binary = Binary(self._output, name, descriptor)
        stream = io.TextIOWrapper(binary, "utf-8", errors, newline="\n", write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        return stream


def _usable(stream: Any) -> bool:
    try:
        return not stream.closed and os.fstat(stream.fileno()) is not None
    except (ValueError, OSError, AttributeError):
        return False

"""Gives the user's program sys.stdin, sys.stdout and sys.stderr, which are real text streams.

They are `io.TextIOWrapper`s as in every interpreter, so `reconfigure`, `detach`, `encoding` and the
rest are the real ones; only the binary stream below hands its bytes to the ordered queue.
"""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from typing import Any

from era_kernel.output_publisher import OutputPublisher

MAX_FORMER_STREAMS = 64  # streams of earlier runs that are kept


class StdioBuffer(io.BufferedIOBase):
    """Serves as `sys.stdout.buffer`, without a buffer of its own: the queue is one."""

    mode = "wb"

    def __init__(self, output: OutputPublisher, name: str, descriptor: int) -> None:
        self._output = output
        self._stream_name = name
        self._descriptor = descriptor
        self.name = f"<{name}>"

    def write(self, data: Any, /) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        data = bytes(memoryview(data))
        self._output.write(self._stream_name, data)
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


class StandardStreams:
    """Puts the three streams in place: each run starts with new ones, whatever became of the old.

    Code that kept an old stream can go on using it.
    """

    def __init__(self, output: OutputPublisher) -> None:
        self._output = output
        # Streams that nothing refers to would be destroyed, and close their descriptors.
        self._originals = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        # A `print` that is under way in a thread uses sys.stdout without a reference of its own
        # (before Python 3.14): the process would crash if the stream were gone when it goes on.
        self._former_streams: deque[io.TextIOBase | None] = deque(maxlen=MAX_FORMER_STREAMS)

    def install(self) -> None:
        self._former_streams += (getattr(sys, "stdout", None), getattr(sys, "stderr", None))
        # The error handlers of a plain interpreter in the locale of sessions, C.UTF-8.
        sys.stdout = sys.__stdout__ = self._open_stream("stdout", 1, "surrogateescape")
        sys.stderr = sys.__stderr__ = self._open_stream("stderr", 2, "backslashreplace")
        if not _is_usable(getattr(sys, "stdin", None)):
            sys.stdin = sys.__stdin__ = _open_stdin()  # type: ignore[misc]

    def flush(self) -> None:
        """Flushes what a plain interpreter flushes at its end; skips a broken stream."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                continue

    def write_stderr(self, text: str) -> None:
        """Writes to sys.stderr, whatever object that is by now."""
        try:
            sys.stderr.write(text)
        except Exception:
            self._output.write("stderr", text.encode(errors="backslashreplace"))

    def _open_stream(self, name: str, descriptor: int, errors: str) -> io.TextIOWrapper:
        binary = StdioBuffer(self._output, name, descriptor)
        stream = io.TextIOWrapper(binary, "utf-8", errors, newline="\n", write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        return stream


def _open_stdin() -> io.TextIOWrapper | None:
    """Returns a stream of descriptor 0, which is at its end if the program closed it."""
    try:
        if not _is_open(0):
            descriptor = os.open(os.devnull, os.O_RDONLY)  # usually 0, the lowest that is free
            if descriptor != 0:
                os.dup2(descriptor, 0)
                os.close(descriptor)
        return open(0, encoding="utf-8", closefd=False)
    except OSError:  # no descriptor is left
        return None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _is_usable(stream: Any) -> bool:
    try:
        return not stream.closed and os.fstat(stream.fileno()) is not None
    except BaseException:  # an object that a program has put there
        return False

"""Gives the user's program sys.stdin, sys.stdout and sys.stderr, which are real text streams.

They are `io.TextIOWrapper`s as in every interpreter, so `reconfigure`, `detach`, `encoding` and the
rest are the real ones; only the binary stream below hands its bytes to the ordered queue.
"""

from __future__ import annotations

import sys
from collections import deque
from io import BufferedIOBase, FileIO, TextIOBase, TextIOWrapper
from os import O_RDONLY, dup2, fstat, set_inheritable
from os import close as close_descriptor
from os import open as open_descriptor
from typing import Any

from era_kernel.output_publisher import OutputPublisher

MAX_FORMER_STREAMS = 64  # streams of earlier runs that are kept

_sys_names = vars(sys)  # what a program deleted is missing there


class StdioBuffer(BufferedIOBase):
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
    def raw(self) -> FileIO:  # type: ignore[override]
        return FileIO(self._descriptor, "wb", closefd=False)

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
        self._former_streams: deque[TextIOBase | None] = deque(maxlen=MAX_FORMER_STREAMS)

    def install(self) -> None:
        self._former_streams += (_sys_names.get("stdout"), _sys_names.get("stderr"))
        # The error handlers of a plain interpreter in the locale of sessions, C.UTF-8.
        sys.stdout = sys.__stdout__ = self._open_stream("stdout", 1, "surrogateescape")
        sys.stderr = sys.__stderr__ = self._open_stream("stderr", 2, "backslashreplace")
        if not _is_usable(_sys_names.get("stdin")):
            _reopen_descriptor_0()
            sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115

    def flush(self) -> None:
        """Flushes what a plain interpreter flushes at its end; skips a broken stream."""
        for name in ("stdout", "stderr"):
            try:
                _sys_names[name].flush()
            except BaseException:  # a program's own stream may do anything
                continue

    def write_stderr(self, text: str) -> None:
        """Writes to sys.stderr, whatever object that is by now."""
        try:
            _sys_names["stderr"].write(text)
        except BaseException:  # a program's own stream may do anything
            self._output.write("stderr", text.encode(errors="backslashreplace"))

    def _open_stream(self, name: str, descriptor: int, errors: str) -> TextIOWrapper:
        binary = StdioBuffer(self._output, name, descriptor)
        stream = TextIOWrapper(binary, "utf-8", errors, newline="\n", write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        return stream


def _is_usable(stream: object) -> bool:
    """Returns whether a run can read from a stream that an earlier one left."""
    if type(stream) is not TextIOWrapper:
        return False
    try:
        return not stream.closed and fstat(stream.fileno()) is not None
    except BaseException:  # its buffer may be an object of the program's
        return False


def _reopen_descriptor_0() -> None:
    """Opens the null device as stdin where a program closed that, so that no other file gets 0."""
    try:
        fstat(0)
    except OSError:
        null = open_descriptor("/dev/null", O_RDONLY)
        if null != 0:
            dup2(null, 0)
            close_descriptor(null)
        set_inheritable(0, True)

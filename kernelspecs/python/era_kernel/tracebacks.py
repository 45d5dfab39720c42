"""Formats tracebacks as the plain interpreter does: the user's frames only, named `<cell N>`."""

from __future__ import annotations

import linecache
import os
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import IPython

from era_kernel import source_text

MAX_SOURCE_CHARS = 8 * 1024 * 1024  # characters of cells' source that are kept for tracebacks

KERNEL_PATHS = (str(Path(__file__).parent) + os.sep, str(Path(IPython.__file__).parent) + os.sep)


@dataclass(frozen=True, slots=True)
class CellProgram:
    """What a cell was compiled from: its source, with calls for magics, and `__future__` flags."""

    source: str
    flags: int
    is_plain: bool  # a plain interpreter can run the source as it is


class CellSources:
    """Keeps the source of cells where tracebacks, warnings and `inspect` look for lines."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}  # the same, where no program changes them
        self.programs: dict[str, CellProgram] = {}  # of the cells that could be compiled
        self._cell_sizes: deque[tuple[str, int]] = deque()
        self._size = 0

    def add(self, name: str, source: str) -> None:
        """Keeps a cell's normalized source, and forgets the oldest cells where that is too much."""
        # Without a time of modification, linecache never looks for a file of that name.
        lines = source_text.split_lines(source)
        linecache.cache[name] = (len(source), None, lines, name)
        self.lines[name] = lines
        self._cell_sizes.append((name, len(source)))
        self._size += len(source)
        while self._size > MAX_SOURCE_CHARS and len(self._cell_sizes) > 1:
            old, size = self._cell_sizes.popleft()
            linecache.cache.pop(old, None)
            self.lines.pop(old, None)
            self.programs.pop(old, None)
            self._size -= size

    def remember_program(self, name: str, program: CellProgram) -> None:
        """Remembers what was compiled, until the cell's source is forgotten."""
        self.programs[name] = program


def remove_kernel_frames(error: BaseException) -> None:
    """Removes the frames of kernel and IPython from an exception, its causes and contexts."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = _without_kernel_frames(current.__traceback__)
        origins = (current.__cause__, current.__context__)
        waiting += [origin for origin in origins if origin is not None]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions


def format_exception(error: BaseException) -> str:
    """Returns what a plain interpreter prints for an uncaught exception."""
    try:
        formatted = traceback.TracebackException(
            type(error), error, error.__traceback__, compact=True
        )
        return _escape_surrogates("".join(formatted.format()))
    except Exception as problem:  # an exception class may do anything in its hooks
        return f"{type(error).__qualname__}: <traceback failed: {type(problem).__name__}>\n"


def exception_text(error: BaseException) -> str:
    """Returns what `str` gives for an exception, or a remark that `str` failed."""
    try:
        return _escape_surrogates(str(error))
    except Exception:
        return "<exception str() failed>"


def _escape_surrogates(message: str) -> str:
    """Returns text as sys.stderr would write it: with lone surrogates escaped."""
    return message.encode(errors="backslashreplace").decode()


def _without_kernel_frames(first: TracebackType | None) -> TracebackType | None:
    while first is not None and _is_kernel_frame(first):
        first = first.tb_next
    link = first
    while link is not None:
        while link.tb_next is not None and _is_kernel_frame(link.tb_next):
            link.tb_next = link.tb_next.tb_next
        link = link.tb_next
    return first


def _is_kernel_frame(link: TracebackType) -> bool:
    return link.tb_frame.f_code.co_filename.startswith(KERNEL_PATHS)

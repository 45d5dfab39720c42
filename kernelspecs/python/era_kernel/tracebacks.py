"""Formats tracebacks as the plain interpreter does: the user's frames only, named `<cell N>`."""

from __future__ import annotations

import linecache
import os
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from os import write as write_fd
from pathlib import Path
from types import TracebackType
from typing import Any

import IPython

from era_kernel import source_text
from era_kernel.object_layout import get_mro, get_name

MAX_SOURCE_CHARS = 8 * 1024 * 1024  # characters of cells' source that are kept for tracebacks

MAX_PLAIN_FRAMES = 1000  # frames that are told of an exception whose own code fails

PLAIN_MODE = "Plain"  # of `%xmode`: tracebacks are those of the plain interpreter

KERNEL_PATHS = (str(Path(__file__).parent) + os.sep, str(Path(IPython.__file__).parent) + os.sep)

# What an exception really holds. Its class may define attributes of the same names.
_fields: Any = vars(BaseException)
get_traceback, set_traceback = _fields["__traceback__"].__get__, _fields["__traceback__"].__set__
_get_cause, _get_context = _fields["__cause__"].__get__, _fields["__context__"].__get__
_is_context_suppressed = _fields["__suppress_context__"].__get__
_get_exceptions = vars(BaseExceptionGroup)["exceptions"].__get__


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
    """Removes the frames of kernel and IPython from an exception, its causes and contexts.

    Reads the exceptions' own fields, whatever their classes define: no code of a program runs.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        set_traceback(current, _without_kernel_frames(get_traceback(current)))
        origins = (_get_cause(current), _get_context(current))
        waiting += [origin for origin in origins if origin is not None]
        if isinstance_of(current, BaseExceptionGroup):
            waiting += _get_exceptions(current)


def format_exception(error: BaseException) -> str:
    """Returns what a plain interpreter prints for an uncaught exception."""
    return describe_exception(error)[0]


def describe_exception(error: BaseException) -> tuple[str, str]:
    """Returns what a plain interpreter prints for an exception, and what `str` gives for it.

    That runs code of the exception's class, each method once. Where this fails, only what the
    interpreter itself knows is told: the frames and the name of the class.
    """
    try:
        formatted = _describe_tree(error)
        return escape_surrogates("".join(formatted.format())), escape_surrogates(formatted._str)
    except BaseException as problem:
        return _format_plainly(error, problem), "<exception str() failed>"


def format_in_mode(formatter: Any, error: BaseException) -> str:
    """Returns what IPython's formatter makes of an exception, in the mode that `%xmode` set."""
    lines = formatter.structured_traceback(type(error), error, get_traceback(error))
    text: str = formatter.stb2text(lines)
    return escape_surrogates(text.rstrip("\n") + "\n")


def type_name(kind: type) -> str:
    """Returns the name of a class, whatever its metaclass says."""
    name = get_name(kind)
    return escape_surrogates(str.__str__(name))


def escape_surrogates(message: str) -> str:
    """Returns text as sys.stderr would write it: with lone surrogates escaped."""
    return message.encode(errors="backslashreplace").decode()


def isinstance_of(value: object, kind: type) -> bool:
    """Returns whether a value's class is `kind` or derived from it; its `__class__` may lie."""
    return any(base is kind for base in get_mro(type(value)))


def describe_fault(error: BaseException) -> str:
    """Returns the class of an exception, and where in the kernel it was raised.

    Nothing that a program chose is in it but the name of the class.
    """
    places = []
    link = get_traceback(error)
    while link is not None:
        file = link.tb_frame.f_code.co_filename
        if file.startswith(KERNEL_PATHS):
            places.append(f"{file.rpartition('/')[2]}:{link.tb_lineno}")
        link = link.tb_next
    return f"{type_name(type(error))[:100]} at {' '.join(places[-5:])}"


def log_fault(descriptor: int, error: BaseException) -> None:
    """Writes a fault of the kernel itself to a descriptor that the server reads."""
    write_fd(descriptor, f"{describe_fault(error)}\n".encode("ascii", "backslashreplace"))


def _describe_tree(error: BaseException) -> Any:
    """Returns the `TracebackException` of an exception, its causes, contexts and members.

    They are found by the exceptions' own fields: what a class defines in their places may have no
    end. Members that `format` does not show are left out.
    """
    seen: set[int] = set()
    described = _describe_one(error, seen)
    waiting = [(described, error, 0)]
    while waiting:
        node, current, depth = waiting.pop()
        node.__cause__ = node.__context__ = node.exceptions = None
        cause, context = _get_cause(current), _get_context(current)
        if cause is not None and id(cause) not in seen:
            node.__cause__ = _describe_one(cause, seen)
            waiting.append((node.__cause__, cause, depth))
        elif context is not None and id(context) not in seen and not node.__suppress_context__:
            node.__context__ = _describe_one(context, seen)
            waiting.append((node.__context__, context, depth))
        if isinstance_of(current, BaseExceptionGroup):
            members = _get_exceptions(current)
            shown = members[: node.max_group_width if depth < node.max_group_depth else 0]
            nodes = [_describe_one(member, seen) for member in shown]
            node.exceptions = [*nodes, *[None] * (len(members) - len(shown))]
            waiting += [(*pair, depth + 1) for pair in zip(nodes, shown, strict=True)]
    return described


def _describe_one(error: BaseException, seen: set[int]) -> Any:
    # With a set of those that were seen, the constructor looks at this one only.
    create: Any = traceback.TracebackException
    node = create(type(error), error, get_traceback(error), compact=True, _seen=seen)
    node.__suppress_context__ = _is_context_suppressed(error)
    notes = node.__notes__
    if isinstance(notes, Sequence) and not isinstance(notes, str | bytes):
        node.__notes__ = [*islice(notes, len(notes))]
    return node


def _format_plainly(error: BaseException, problem: BaseException) -> str:
    lines = []
    trace = get_traceback(error)
    if trace is not None:
        lines = ["Traceback (most recent call last):\n"]
        for frame, line in islice(traceback.walk_tb(trace), MAX_PLAIN_FRAMES):
            file, name = map(str.__str__, (frame.f_code.co_filename, frame.f_code.co_name))
            lines.append(f'  File "{file}", line {line}, in {name}\n')
    name, why = type_name(type(error)), type_name(type(problem))
    return escape_surrogates("".join(lines) + f"{name}: <traceback failed: {why}>\n")


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
    return str.startswith(link.tb_frame.f_code.co_filename, KERNEL_PATHS)

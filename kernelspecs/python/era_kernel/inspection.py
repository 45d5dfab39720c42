"""Reports the stack and the variables of a program while it runs, without disturbing it.

Called by the thread of `control_thread`. No code of the program is run: no `__repr__`, `__len__`,
`__class__`, `__getattr__` or property of a class or metaclass; types are read by the descriptors of
`type` itself, and other objects only by descriptors that are written in C.
"""

from __future__ import annotations

import faulthandler
import sys
from _thread import get_ident
from asyncio import Handle, Task
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from os import (
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    fstat,
    ftruncate,
    register_at_fork,
)
from os import close as close_descriptor
from os import open as open_descriptor
from os import read as read_descriptor
from signal import SIGURG
from stat import S_ISREG
from types import CoroutineType, FrameType, ModuleType
from typing import Any

from era_kernel.cell_runner import CellRunner
from era_kernel.object_layout import (
    find_attribute,
    get_mro,
    get_name,
    get_namespace,
    is_array,
    is_arrow_column,
)
from era_kernel.program_loop import ProgramLoop
from era_kernel.shell import EraShell
from era_kernel.tracebacks import KERNEL_PATHS, CellSources

Content = dict[str, Any]

MAX_FRAMES = 200  # frames that are reported, the innermost
MAX_VISITED_FRAMES = 20_000  # frames that are looked at
MAX_LINE_CHARS = 500  # characters of a frame's source line, or of its names
MAX_FILES = 20  # files that are read for the lines of one stack
MAX_FILE_BYTES = 1024 * 1024  # bytes of one of them
MAX_VARIABLES = 1000  # variables that are reported
MAX_VISITED_NAMES = 100_000  # names of the namespace that are looked at
MAX_NAME_CHARS = 256  # characters of a name or a type
MAX_TEXT_CHARS = 1000  # characters of a string that are reported
MAX_ITEMS = 100  # items of a container that is reported whole, nested ones included
MAX_INTEGER_BITS = 4096  # bits of an integer that is reported
MAX_VALUE_CHARS = 512 * 1024  # characters of all values together
DUMP_SIGNAL = SIGURG  # asks for a stack when no Python code can run; ignored by default

_current_frames = sys._current_frames
_register_dump, _unregister_dump = faulthandler.register, faulthandler.unregister
_CELL_CODE = CellRunner._compile_and_run.__code__  # from where cells are called
_LOOP_CODE = Handle._run.__code__  # from where an event loop calls what is due


class Inspector:
    """Answers `stack_request` and `variables_request`."""

    def __init__(self, shell: EraShell, sources: CellSources, program_loop: ProgramLoop) -> None:
        self._shell = shell
        self._sources = sources
        self._program_loop = program_loop
        self._main_thread_id = get_ident()
        self._dump_fd = -1
        self.handlers = {"stack_request": self.stack, "variables_request": self.variables}

    def enable_stack_dump(self, file: str) -> None:
        """Makes SIGURG write the main thread's stack to a file, even while C code keeps the GIL."""
        flags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW
        self._dump_fd = open_descriptor(file, flags, 0o600)
        _register_dump(DUMP_SIGNAL, self._dump_fd, all_threads=False)
        # Children get the signal, too: it goes to the process group.
        register_at_fork(after_in_child=lambda: _unregister_dump(DUMP_SIGNAL))

    # ------------------------------------------------------------ the stack

    def stack(self, _: Content) -> Content:
        """Returns the program's frames in the main thread, or in the task that it awaits."""
        if self._dump_fd >= 0:
            ftruncate(self._dump_fd, 0)
        frames = self._running_frames() or self._awaited_frames()
        lines = _SourceLines(self._sources.lines)
        described = [
            {
                "file": _truncate(frame.f_code.co_filename, MAX_LINE_CHARS),
                "line": number,
                "function": _truncate(frame.f_code.co_qualname, MAX_LINE_CHARS),
                "source": lines.find_line(frame.f_code.co_filename, number),
            }
            for frame, number in frames[:MAX_FRAMES]
        ]
        return {"status": "ok", "frames": described[::-1]}

    def _running_frames(self) -> list[tuple[FrameType, int]]:
        """Returns the main thread's frames, innermost first; none when no program is among them."""
        all_frames = list(
            islice(_walk_outwards(_current_frames().get(self._main_thread_id)), MAX_VISITED_FRAMES)
        )
        codes = [frame.f_code for frame, _ in all_frames]
        cell_calls = [at for at, code in enumerate(codes) if code is _CELL_CODE]
        cell_calls = cell_calls or [at for at, code in enumerate(codes) if code is _LOOP_CODE]
        if not cell_calls and len(all_frames) < MAX_VISITED_FRAMES:
            return []
        program_frames = all_frames[: cell_calls[-1]] if cell_calls else all_frames
        return [
            (frame, line) for frame, line in program_frames if not _is_kernel_code(frame.f_code)
        ]

    def _awaited_frames(self) -> list[tuple[FrameType, int]]:
        """Returns the frames of the coroutines that a cell awaits, innermost first."""
        task = self._program_loop.cell_task
        found: list[tuple[FrameType, int]] = []
        coroutine = task.get_coro() if type(task) is Task else None
        while type(coroutine) is CoroutineType and len(found) < MAX_VISITED_FRAMES:
            frame = coroutine.cr_frame
            if frame is None:
                break
            if not _is_kernel_code(frame.f_code):
                found.append((frame, frame.f_lineno or 0))
            coroutine = coroutine.cr_await
        return found[::-1]

    # ------------------------------------------------------------ variables

    def variables(self, _: Content) -> Content:
        """Returns the program's variables, oldest first, without modules and `_` names."""
        names = self._copy_namespace()
        described: list[Content] = []
        remaining, is_truncated = MAX_VALUE_CHARS, len(names) == MAX_VISITED_NAMES
        for name, value in names:
            if type(name) is not str or name.startswith("_") or type(value) is ModuleType:
                continue
            if len(described) == MAX_VARIABLES or len(name) > MAX_NAME_CHARS:
                is_truncated = True
                continue
            variable = {"name": _truncate(name, MAX_NAME_CHARS), "type": _type_name(type(value))}
            variable |= _describe(value)
            size = _estimate_size(variable)
            if size > remaining:
                is_truncated = True
                variable.pop("value", None)
                size = _estimate_size(variable)
            remaining -= size
            described.append(variable)
        return {"status": "ok", "variables": described, "truncated": is_truncated}

    def _copy_namespace(self) -> list[tuple[Any, Any]]:
        """Copies the namespace in one atomic step, unless destructors change it meanwhile."""
        for _ in range(10):
            try:
                return list(islice(self._shell.user_ns.items(), MAX_VISITED_NAMES))
            except RuntimeError:
                continue
        return []


class _SourceLines:
    """Finds lines of source, in cells and in at most MAX_FILES ordinary files."""

    def __init__(self, cell_lines: dict[str, list[str]]) -> None:
        self._cell_lines = cell_lines
        self._file_lines: dict[str, list[str]] = {}

    def find_line(self, file: str, number: int) -> str:
        file = _truncate(file, 4096)
        lines = self._cell_lines.get(file)
        if lines is None:
            lines = self._file_lines.get(file)
        if lines is None:
            lines = self._file_lines[file] = (
                _read_lines(file) if len(self._file_lines) < MAX_FILES else []
            )
        return lines[number - 1].strip()[:MAX_LINE_CHARS] if 0 < number <= len(lines) else ""


def _read_lines(file: str) -> list[str]:
    try:
        descriptor = open_descriptor(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    except (OSError, ValueError):
        return []
    try:
        status = fstat(descriptor)
        if not S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return []
        return read_descriptor(descriptor, MAX_FILE_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []
    finally:
        close_descriptor(descriptor)


def _walk_outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno or 0
        frame = frame.f_back


def _is_kernel_code(code: Any) -> bool:
    return str.startswith(code.co_filename, KERNEL_PATHS)


def _truncate(text: str, length: int) -> str:
    """Returns the beginning of a text, as a string that JSON can hold and of no subclass."""
    plain = str.__getitem__(text, slice(0, length))
    return plain if plain.isascii() else plain.encode(errors="replace").decode()


# ---------------------------------------------------------------- values


def _describe(value: object) -> Content:
    """Returns what is reported of a value beside its type."""
    describe = _DESCRIBERS.get(id(type(value)))
    if describe is not None:
        return describe(value)
    for base in get_mro(type(value)):
        if id(base) in _LENGTH_GETTERS:
            return {"size": _LENGTH_GETTERS[id(base)](value)}
    shape = _find_shape(value)
    return {} if shape is None else {"shape": shape}


def _describe_text(value: str) -> Content:
    return {"size": len(value), "value": _truncate(value, MAX_TEXT_CHARS)}


def _describe_bytes(value: bytes | bytearray) -> Content:
    return {"size": len(value), "value": repr(bytes(value[: MAX_TEXT_CHARS // 4]))}


def _describe_integer(value: int) -> Content:
    return {"value": value} if value.bit_length() <= MAX_INTEGER_BITS else {}


def _describe_float(value: float) -> Content:
    """Returns the value; nan and inf as text, since JSON has neither."""
    return {"value": value if value - value == 0 else repr(value)}


def _describe_container(value: Any) -> Content:
    described: Content = {"size": len(value)}
    with suppress(_NotPlain, RuntimeError):  # too much, not plain, or it changed meanwhile
        described["value"] = _to_plain(value, [MAX_ITEMS, MAX_TEXT_CHARS])
    return described


class _NotPlain(Exception):
    """A container is too large, or holds a value of which only the type is reported."""


def _to_plain(value: Any, budget: list[int]) -> Any:
    """Converts a value of built-in types all through to JSON.

    `budget` holds how many items and characters may still come. Raises _NotPlain.
    """
    kind = type(value)
    budget[0] -= 1
    if kind is str:
        budget[1] -= len(value)
    if min(budget) < 0:
        raise _NotPlain
    if value is None or kind is bool or kind is str:
        return _truncate(value, MAX_TEXT_CHARS) if kind is str else value
    if kind is int or kind is float:
        described = _DESCRIBERS[id(kind)](value)
        if "value" not in described:
            raise _NotPlain
        return described["value"]
    if kind is dict:
        pairs = list(islice(value.items(), MAX_ITEMS + 1))
        if any(type(key) is not str for key, _ in pairs):
            raise _NotPlain
        return {_to_plain(key, budget): _to_plain(item, budget) for key, item in pairs}
    if id(kind) in _LENGTH_GETTERS and kind is not bytes and kind is not bytearray:
        return [_to_plain(item, budget) for item in list(islice(value, MAX_ITEMS + 1))]
    raise _NotPlain


# By the ids of the types: a metaclass may define how its classes are hashed and compared.
_DESCRIBERS: dict[int, Any] = {
    id(type(None)): lambda value: {"value": value},
    id(bool): lambda value: {"value": value},
    id(int): _describe_integer,
    id(float): _describe_float,
    id(complex): lambda value: {"value": repr(value)},
    id(str): _describe_text,
    id(bytes): _describe_bytes,
    id(bytearray): _describe_bytes,
    **dict.fromkeys(map(id, (list, tuple, dict, set, frozenset)), _describe_container),
    id(range): lambda value: {"value": repr(value)},
}
_LENGTH_GETTERS: dict[int, Any] = {
    id(kind): kind.__len__ for kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset)
}


def _estimate_size(variable: Content) -> int:
    return sum(len(repr(part)) for part in variable.values())


def _type_name(kind: type) -> str:
    """Returns the name of a type, whatever a metaclass says."""
    return _truncate(get_name(kind), MAX_NAME_CHARS)


# ---------------------------------------------------------------- shapes


_TABLE_TYPES = {"DataFrame", "Series", "Index", "RangeIndex", "DatetimeIndex", "MultiIndex"}


def _find_shape(value: object) -> list[int] | None:
    """Returns the shape of an array or table; None for others, or where only their code has it."""
    kind = type(value)
    if is_array(kind):
        return list(get_namespace(kind)["shape"].__get__(value))
    if _type_name(kind) not in _TABLE_TYPES:
        return None
    block = find_attribute(value, "_mgr")
    axes = None if block is None else find_attribute(block, "axes")
    if type(axes) is not list or len(axes) > 2:
        length = _axis_length(value)
        return None if length is None else [length]
    lengths = [_axis_length(axis) for axis in axes[::-1]]
    return None if None in lengths else lengths  # type: ignore[return-value]


def _axis_length(index: object) -> int | None:
    """Returns the length of an index of a table, or None when it is not found."""
    storage = find_attribute(index, "_range")
    if type(storage) is range:
        return len(storage)
    codes = find_attribute(index, "_codes")  # of several levels, each as long as the index
    if any(base is list for base in get_mro(type(codes))) and list.__len__(codes):
        level = list.__getitem__(codes, 0)
        return _find_shape(level)[0] if is_array(type(level)) else None  # type: ignore[index]
    data = find_attribute(index, "_data")
    for storage in (data, find_attribute(data, "_ndarray")):
        if is_array(type(storage)):
            shape = _find_shape(storage)
            return shape[0] if shape else None
    column = find_attribute(data, "_pa_array")
    if not is_arrow_column(type(column)):
        return None
    length: int = get_namespace(type(column))["__len__"](column)
    return length

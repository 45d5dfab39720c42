"""What a program is doing and what its names hold, told while it runs and without disturbing it.

Called by the thread of `era_control`. No code of the program is run: no `__repr__`, `__len__`,
`__class__`, `__getattr__` or property of a class or metaclass; types are read by the descriptors of
`type` itself, and of other objects only those are used that are written in C.
"""

from __future__ import annotations

import _thread
import asyncio
import faulthandler
import os
import signal
import stat
import sys
from asyncio import Handle
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from types import CoroutineType, FrameType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from era_loops import Loops
from era_program import Program
from era_traceback import OURS, Sources

Content = dict[str, Any]

DEPTH = 200  # frames that are told, the innermost
STEPS = 20_000  # frames that are looked at
LINE = 500  # characters of a frame's source line, or of its names
FILES = 20  # files that are read for the lines of one stack
FILE = 1024 * 1024  # bytes of one of them
NAMES = 1000  # variables that are told
LOOKED_AT = 100_000  # names of the namespace that are looked at
NAME = 256  # characters of a name or a type
TEXT = 1000  # characters of a string that are told
ITEMS = 100  # items of a container that is told whole, those of containers in it among them
BITS = 4096  # of an integer that is told
ROOM = 512 * 1024  # characters of all values together
STUCK = signal.SIGURG  # asks for a stack when no Python code can run; harmless to who knows it not

_frames = sys._current_frames
_of_type = {name: type.__dict__[name].__get__ for name in ("__name__", "__module__", "__flags__")}
_mro, _namespace = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__
_HEAP = 1 << 9  # flag of a type that was not compiled in
_CALL = Program._start.__code__  # from where cells are called
_STEP = Handle._run.__code__  # from where an event loop calls what is due


class Insight:
    """Answers `stack_request` and `variables_request`."""

    def __init__(self, names: dict[str, Any], sources: Sources, loops: Loops) -> None:
        self._names = names
        self._sources = sources
        self._loops = loops
        self._main = _thread.get_ident()
        self._dump = -1
        self.answers = {"stack_request": self.stack, "variables_request": self.variables}

    def dump_into(self, file: str) -> None:
        """On SIGURG, write the main thread's stack there, also while a C call keeps the GIL."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._dump = os.open(file, flags, 0o600)
        faulthandler.register(STUCK, self._dump, all_threads=False)
        # Children get the signal, too: it goes to the process group.
        os.register_at_fork(after_in_child=lambda: faulthandler.unregister(STUCK))

    # ------------------------------------------------------------ the stack

    def stack(self, _: Content) -> Content:
        """The program's frames in the main thread, or in the task that it awaits."""
        if self._dump >= 0:
            os.ftruncate(self._dump, 0)
        frames = self._running() or self._awaited()
        lines = _Lines(self._sources.lines)
        told = [
            {
                "file": _cut(frame.f_code.co_filename, LINE),
                "line": number,
                "function": _cut(frame.f_code.co_qualname, LINE),
                "source": lines.line(frame.f_code.co_filename, number),
            }
            for frame, number in frames[:DEPTH]
        ]
        return {"status": "ok", "frames": told[::-1]}

    def _running(self) -> list[tuple[FrameType, int]]:
        """Innermost first; nothing when no program is on the main thread's stack."""
        every = list(islice(_outwards(_frames().get(self._main)), STEPS))
        codes = [frame.f_code for frame, _ in every]
        ends = [at for at, code in enumerate(codes) if code is _CALL]
        ends = ends or [at for at, code in enumerate(codes) if code is _STEP]
        if not ends and len(every) < STEPS:
            return []
        inner = every[: ends[-1]] if ends else every
        return [(frame, line) for frame, line in inner if not _is_ours(frame.f_code)]

    def _awaited(self) -> list[tuple[FrameType, int]]:
        """The coroutines of a cell that waits, innermost first."""
        task = self._loops.cell
        found: list[tuple[FrameType, int]] = []
        coroutine = task.get_coro() if type(task) is asyncio.Task else None
        while type(coroutine) is CoroutineType and len(found) < STEPS:
            frame = coroutine.cr_frame
            if frame is None:
                break
            if not _is_ours(frame.f_code):
                found.append((frame, frame.f_lineno or 0))
            coroutine = coroutine.cr_await
        return found[::-1]

    # ------------------------------------------------------------ variables

    def variables(self, _: Content) -> Content:
        """The program's names, in the order in which they came; neither modules nor `_` names."""
        names = self._snapshot()
        told: list[Content] = []
        room, left_out = ROOM, len(names) == LOOKED_AT
        for name, value in names:
            if type(name) is not str or name.startswith("_") or type(value) is ModuleType:
                continue
            if len(told) == NAMES or len(name) > NAME:
                left_out = True
                continue
            variable = {"name": _cut(name, NAME), "type": _type_name(type(value))}
            variable |= _described(value)
            size = _weight(variable)
            if size > room:
                left_out = True
                variable.pop("value", None)
                size = _weight(variable)
            room -= size
            told.append(variable)
        return {"status": "ok", "variables": told, "truncated": left_out}

    def _snapshot(self) -> list[tuple[Any, Any]]:
        """One step as other threads see it, but for what ends of objects may do meanwhile."""
        for _ in range(10):
            try:
                return list(islice(self._names.items(), LOOKED_AT))
            except RuntimeError:
                continue
        return []


class _Lines:
    """Lines of source: those of cells, and of ordinary files, of which few are read."""

    def __init__(self, cells: dict[str, list[str]]) -> None:
        self._cells = cells
        self._files: dict[str, list[str]] = {}

    def line(self, file: str, number: int) -> str:
        file = _cut(file, 4096)
        lines = self._cells.get(file)
        if lines is None:
            lines = self._files.get(file)
        if lines is None:
            lines = self._files[file] = _read(file) if len(self._files) < FILES else []
        return lines[number - 1].strip()[:LINE] if 0 < number <= len(lines) else ""


def _read(file: str) -> list[str]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return []
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE:
            return []
        return os.read(descriptor, FILE).decode(errors="replace").splitlines()
    except OSError:
        return []
    finally:
        os.close(descriptor)


def _outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno or 0
        frame = frame.f_back


def _is_ours(code: Any) -> bool:
    return str.startswith(code.co_filename, OURS)


def _cut(text: str, length: int) -> str:
    """A true string, also of a subclass's instance, as JSON can hold it."""
    plain = str.__getitem__(text, slice(0, length))
    return plain if plain.isascii() else plain.encode(errors="replace").decode()


# ---------------------------------------------------------------- values


def _described(value: object) -> Content:
    """What is told of a value beside its type."""
    describe = _DESCRIBE.get(id(type(value)))
    if describe is not None:
        return describe(value)
    for base in _mro(type(value)):
        if id(base) in _LENGTHS:
            return {"size": _LENGTHS[id(base)](value)}
    shape = _shape(value)
    return {} if shape is None else {"shape": shape}


def _text(value: str) -> Content:
    return {"size": len(value), "value": _cut(value, TEXT)}


def _bytes(value: bytes | bytearray) -> Content:
    return {"size": len(value), "value": repr(bytes(value[: TEXT // 4]))}


def _integer(value: int) -> Content:
    return {"value": value} if value.bit_length() <= BITS else {}


def _float(value: float) -> Content:
    """JSON knows neither nan nor inf: they are told as text."""
    return {"value": value if value - value == 0 else repr(value)}


def _container(value: Any) -> Content:
    told: Content = {"size": len(value)}
    with suppress(_Untold, RuntimeError):  # too much, not plain, or it changed meanwhile
        told["value"] = _plain(value, [ITEMS, TEXT])
    return told


class _Untold(Exception):
    """A container is too large, or holds what is told by type only."""


def _plain(value: Any, room: list[int]) -> Any:
    """A value of built-in types all through, as JSON; `room` is what items and text may take."""
    kind = type(value)
    room[0] -= 1
    if kind is str:
        room[1] -= len(value)
    if min(room) < 0:
        raise _Untold
    if value is None or kind is bool or kind is str:
        return _cut(value, TEXT) if kind is str else value
    if kind is int or kind is float:
        told = _DESCRIBE[id(kind)](value)
        if "value" not in told:
            raise _Untold
        return told["value"]
    if kind is dict:
        pairs = list(islice(value.items(), ITEMS + 1))
        if any(type(key) is not str for key, _ in pairs):
            raise _Untold
        return {_plain(key, room): _plain(item, room) for key, item in pairs}
    if id(kind) in _LENGTHS and kind is not bytes and kind is not bytearray:
        return [_plain(item, room) for item in list(islice(value, ITEMS + 1))]
    raise _Untold


# By the ids of the types: a class may have a metaclass that says how it is hashed and compared.
_DESCRIBE: dict[int, Any] = {
    id(type(None)): lambda value: {"value": value},
    id(bool): lambda value: {"value": value},
    id(int): _integer,
    id(float): _float,
    id(complex): lambda value: {"value": repr(value)},
    id(str): _text,
    id(bytes): _bytes,
    id(bytearray): _bytes,
    **dict.fromkeys(map(id, (list, tuple, dict, set, frozenset)), _container),
    id(range): lambda value: {"value": repr(value)},
}
_LENGTHS: dict[int, Any] = {
    id(kind): kind.__len__ for kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset)
}


def _weight(variable: Content) -> int:
    return sum(len(repr(part)) for part in variable.values())


def _type_name(kind: type) -> str:
    """Its name, whatever a metaclass says."""
    return _cut(_of_type["__name__"](kind), NAME)


# ---------------------------------------------------------------- shapes


_TABLES = {"DataFrame", "Series", "Index", "RangeIndex", "DatetimeIndex", "MultiIndex"}


def _shape(value: object) -> list[int] | None:
    """That of an array or a table; None when it is none, or cannot be told without its own code."""
    kind = type(value)
    if _is_array(kind):
        return list(_namespace(kind)["shape"].__get__(value))
    if _type_name(kind) not in _TABLES:
        return None
    block = _attribute(value, "_mgr")
    axes = None if block is None else _attribute(block, "axes")
    if type(axes) is not list or len(axes) > 2:
        length = _axis(value)
        return None if length is None else [length]
    lengths = [_axis(axis) for axis in axes[::-1]]
    return None if None in lengths else lengths  # type: ignore[return-value]


def _axis(index: object) -> int | None:
    """The length of an index of a table."""
    held = _attribute(index, "_range")
    if type(held) is range:
        return len(held)
    codes = _attribute(index, "_codes")  # of several levels, each as long as the index
    if any(base is list for base in _mro(type(codes))) and list.__len__(codes):
        level = list.__getitem__(codes, 0)
        return _shape(level)[0] if _is_array(type(level)) else None  # type: ignore[index]
    for name in ("_data", "_ndarray"):
        held = _attribute(index if name == "_data" else held, name)
        if _is_array(type(held)):
            shape = _shape(held)
            return shape[0] if shape else None
    return None


def _is_array(kind: type) -> bool:
    """Is it numpy's own type? A program cannot make one that is compiled in."""
    if _of_type["__flags__"](kind) & _HEAP or _type_name(kind) != "ndarray":
        return False
    return bool(_of_type["__module__"](kind) == "numpy")


def _attribute(value: object, name: str) -> Any:
    """What the object itself holds under that name, or a slot or C attribute of it; else None."""
    kind = type(value)
    for base in _mro(kind):
        for key, found in list(_namespace(base).items()):
            if type(key) is not str:
                continue
            if key == "__dict__" and type(found) is GetSetDescriptorType:
                for own, held in list(found.__get__(value).items()):
                    if type(own) is str and own == name:
                        return held
            elif key == name and type(found) in (GetSetDescriptorType, MemberDescriptorType):
                return found.__get__(value)
    return None

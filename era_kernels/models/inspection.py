"""What is inside a session: the stack of its program, and its variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MISSING: Final = object()  # a value that is not told; None is one that is


@dataclass(frozen=True, slots=True)
class StackFrame:
    """A call that has not returned; `source` is the text of its line, where that is known."""

    file: str
    line: int
    function: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """A name and what is told of its value without running any code of the program."""

    name: str
    type: str
    shape: tuple[int, ...] | None = None
    size: int | None = None
    value: Any = MISSING


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a session; `truncated`: there is more than is told."""

    variables: tuple[Variable, ...] = ()
    truncated: bool = False

"""The stack of a running program and the variables of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MISSING: Final = object()  # no value is known; None is a value of the program


@dataclass(frozen=True, slots=True)
class StackFrame:
    """A call that has not returned; `source` is the text of the line, empty where unknown."""

    file: str
    line: int
    function: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, described without running any code of the program."""

    name: str
    type: str
    shape: tuple[int, ...] | None = None
    size: int | None = None
    value: Any = MISSING


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a session; `truncated`: the session has more than these."""

    variables: tuple[Variable, ...] = ()
    truncated: bool = False

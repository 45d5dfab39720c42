"""Compiles the code that stands in magics so that tracebacks show the lines of the user's cell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from IPython.core.compilerop import CachingCompiler

from era_kernel.tracebacks import CellSources

_TIMED_NAMES = ("<timed ", "<magic-timeit")  # names that IPython gives to such code


@dataclass(frozen=True, slots=True)
class MagicPlace:
    """Where a magic stands: its cell, and the line of it before which its code begins."""

    cell: str
    line: int  # lines of the cell before the first one of the code
    first_line: str = ""  # the line on which a line magic stands; empty for cell magics


class MagicCompiler(CachingCompiler):
    """IPython's compiler; what magics time has the name and the lines of the cell around it."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: CellSources | None = None
        self._places: list[MagicPlace] = []

    @contextmanager
    def at_magic(self, frame: FrameType, has_body: bool) -> Iterator[None]:
        """Compiles meanwhile what the magic holds that the frame calls."""
        self._places.append(self._find_place(frame, has_body))
        try:
            yield
        finally:
            self._places.pop()

    @property
    def place(self) -> MagicPlace | None:
        """Where the innermost magic stands; None when no magic of a cell is running."""
        return self._places[-1] if self._places and self._places[-1].cell else None

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> Any:
        place = self.place
        if place is None:
            return super().ast_parse(source, filename, symbol)
        try:
            tree = super().ast_parse(source, place.cell, symbol)
        except SyntaxError as error:
            if error.filename == place.cell and error.lineno is not None:
                self._move_error(error, place)
            raise
        column = max(place.first_line.find(source.strip()), 0) if place.first_line else 0
        _move(tree, place.line, len(place.first_line[:column].encode()))
        return tree

    def __call__(self, source: Any, filename: str, symbol: str, **options: Any) -> Any:
        place = self.place
        if place is not None and filename.startswith(_TIMED_NAMES):
            filename = place.cell
        try:
            return super().__call__(source, filename, symbol, **options)
        except SyntaxError as error:
            raise error.with_traceback(None) from None  # the user did not call `codeop`

    def _find_place(self, frame: FrameType, has_body: bool) -> MagicPlace:
        """Returns the place of a magic whose call stands in this frame."""
        name, line = frame.f_code.co_filename, frame.f_lineno
        lines = self.sources.lines.get(name) if self.sources is not None else None
        if lines is None or not 0 < line <= len(lines):
            return MagicPlace("", 0)
        if has_body:
            return MagicPlace(name, line)
        return MagicPlace(name, line - 1, lines[line - 1])

    def _move_error(self, error: SyntaxError, place: MagicPlace) -> None:
        error.lineno = (error.lineno or 1) + place.line
        if error.end_lineno is not None:
            error.end_lineno += place.line
        if place.first_line:
            error.text, error.offset, error.end_offset = place.first_line, None, None


def _move(tree: ast.AST, lines: int, columns: int) -> None:
    """Moves code down, and to the right what stands on its first line."""
    for node in ast.walk(tree) if columns else ():
        if getattr(node, "lineno", None) == 1:
            node.col_offset += columns  # type: ignore[attr-defined]
        if getattr(node, "end_lineno", None) == 1:
            node.end_col_offset += columns  # type: ignore[attr-defined]
    ast.increment_lineno(tree, lines)

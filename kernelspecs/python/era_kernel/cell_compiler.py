"""Compiles the source of a cell: as Python, or with IPython's magics where it is not."""

from __future__ import annotations
import __future__

import ast
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_COROUTINE
from types import CodeType

from era_kernel import source_text
from era_kernel.shell import EraShell
from era_kernel.tracebacks import CellProgram, CellSources

_FUTURE_FLAGS = sum(
    getattr(__future__, name).compiler_flag for name in __future__.all_feature_names
)
_SEMICOLON = re.compile(r"[ \t\f]*;")
_IGNORE_ALL = [("ignore", None, Warning, None, 0)]


class CellCompiler:
    """Compiles the cells of a session, each with the `from __future__` imports of earlier ones.

    The text itself is compiled wherever the cell is plain Python: of an AST the compiler takes only
    a third of the depth. The AST tells where the last expression is, whose value is shown.
    """

    def __init__(self, shell: EraShell, sources: CellSources) -> None:
        self._shell = shell
        self._sources = sources
        self._future_flags = 0  # flags of `from __future__ import …` in earlier cells

    def compile(self, source: str, name: str) -> list[CodeType]:
        """Returns the cell's code, and as a second item that of a last expression to be shown.

        Raises what the parser or the compiler raises, a SyntaxError with its line of source.
        """
        source = source_text.normalize(source)
        self._sources.add(name, source)
        try:
            _check_characters(source, name)
            return self._compile(source, name)
        except SyntaxError as error:
            self._add_source_line(error, name)
            raise

    def _compile(self, source: str, name: str) -> list[CodeType]:
        text, tree = self._parse(source, name)
        if tree is not None and self._shell.ast_transformers:
            codes = self._compile_tree(self._shell.transform_ast(tree), text, name)
        else:
            codes = self._compile_text(text, name, tree)
        is_plain = text is source and not any(code.co_flags & CO_COROUTINE for code in codes)
        program = CellProgram(text, self._future_flags, is_plain)
        self._future_flags |= codes[0].co_flags & _FUTURE_FLAGS
        self._sources.remember_program(name, program)
        return codes

    def _parse(self, source: str, name: str) -> tuple[str, ast.Module | None]:
        """Parses the cell as Python, and only when that fails as Python with IPython's magics.

        There is no tree for what is too deep for one.
        """
        flags = self._flags | ast.PyCF_ONLY_AST
        with _without_warnings():  # they come once, when the code is made
            try:
                return source, compile(source, name, "exec", flags, True)
            except (RecursionError, MemoryError):
                return source, None
            except SyntaxError as error:
                transformed = _transform_magics(self._shell, source)
                if transformed is None:
                    raise error.with_traceback(None) from None
            return transformed, compile(transformed, name, "exec", flags, True)

    def _compile_text(self, source: str, name: str, tree: ast.Module | None) -> list[CodeType]:
        last = tree.body[-1] if tree is not None and tree.body else None
        if not _is_shown(source, last):
            return [compile(source, name, "exec", self._flags, True)]
        assert isinstance(last, ast.Expr)
        statements, expression = _split_before(source, last)
        first = compile(statements, name, "exec", self._flags, True)
        flags = self._flags | first.co_flags & _FUTURE_FLAGS
        if expression is None:
            return [first, compile(ast.Expression(last.value), name, "eval", flags, True)]
        return [first, compile(expression, name, "eval", flags, True)]

    def _compile_tree(self, tree: ast.Module, source: str, name: str) -> list[CodeType]:
        """Compiles what somebody's transformers of the AST have changed."""
        last = tree.body[-1] if tree.body else None
        if not _is_shown(source, last):
            return [compile(tree, name, "exec", self._flags, True)]
        assert isinstance(last, ast.Expr)
        del tree.body[-1]
        first = compile(tree, name, "exec", self._flags, True)
        flags = self._flags | first.co_flags & _FUTURE_FLAGS
        return [first, compile(ast.Expression(last.value), name, "eval", flags, True)]

    @property
    def _flags(self) -> int:
        return self._future_flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def _add_source_line(self, error: SyntaxError, name: str) -> None:
        """Adds the line of source to the error; the compiler looks for it in a file only."""
        lines = self._sources.lines.get(name, [])
        if error.text is None and error.lineno and error.lineno <= len(lines):
            error.text = lines[error.lineno - 1]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences warnings meanwhile, without the marks by which each is shown only once."""
    filters = warnings.filters
    warnings.filters = _IGNORE_ALL
    try:
        yield
    finally:
        warnings.filters = filters


def _check_characters(source: str, name: str) -> None:
    """Raises SyntaxError for what no file of Python can hold."""
    if (at := source.find("\0")) >= 0:
        line = source.count("\n", 0, at)
        text = source.split("\n", line + 1)[line].partition("\0")[0]
        message = "source code cannot contain null bytes"
        raise SyntaxError(message, (name, line + 1, None, text))
    try:
        source.encode()
    except UnicodeEncodeError as error:
        line = source.count("\n", 0, error.start)
        column = error.start - source.rfind("\n", 0, error.start)
        text = source.split("\n", line + 1)[line]
        message = f"(unicode error) 'utf-8' codec can't encode {source[error.start]!a}"
        raise SyntaxError(message, (name, line + 1, column, text)) from None


def _is_shown(source: str, last: ast.stmt | None) -> bool:
    """Returns whether this is an expression whose value is shown: no semicolon follows it."""
    if not isinstance(last, ast.Expr) or isinstance(last.value, ast.Starred):
        return False
    if ";" not in source or last.end_lineno is None or last.end_col_offset is None:
        return True
    lines = source_text.split_lines(source)
    if last.end_lineno > len(lines):
        return True
    line = lines[last.end_lineno - 1].encode()
    return _SEMICOLON.match(line[last.end_col_offset :].decode(errors="replace")) is None


def _split_before(source: str, last: ast.Expr) -> tuple[str, str | None]:
    """Returns the text before the last expression, and the expression at its line and column.

    There is no text of the expression where it could not stand alone.
    """
    assert last.end_lineno is not None and last.end_col_offset is not None
    lines = [line.encode() for line in source_text.split_lines(source)]
    row, column = last.lineno - 1, last.col_offset
    statements = b"".join(lines[:row]) + lines[row][:column]
    ending = lines[row : last.end_lineno]
    ending[-1] = ending[-1][: last.end_col_offset]
    ending[0] = ending[0][column:]
    expression = b"".join(ending).decode()
    if row:  # brackets take in spaces before it, and what is no expression without them
        expression = "\n" * (row - 1) + "(\n" + " " * column + expression + "\n)"
    elif column:
        expression = "(" + " " * (column - 1) + expression + "\n)"
    elif isinstance(last.value, ast.Tuple | ast.Yield | ast.YieldFrom):
        return statements.decode(), None
    return statements.decode(), expression


def _transform_magics(shell: EraShell, source: str) -> str | None:
    """Returns the code with its magics and shell escapes as calls; None when it has none."""
    try:
        transformed: str = shell.input_transformer_manager.transform_cell(source)
    except SyntaxError:
        return None
    return transformed if transformed.rstrip("\n") != source.rstrip("\n") else None

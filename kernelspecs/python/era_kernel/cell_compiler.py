"""Compiles the source of a cell: as Python, or with IPython's magics where it is not."""

from __future__ import annotations
import __future__

import ast
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import CO_COROUTINE
from types import CodeType
from typing import Any

from era_kernel import source_text
from era_kernel.shell import VALUE_NAME, EraShell
from era_kernel.tracebacks import CellProgram, CellSources

_FUTURE_FLAGS = sum(
    getattr(__future__, name).compiler_flag for name in __future__.all_feature_names
)
_SEMICOLON = re.compile(r"[ \t\f]*;")
_compile = compile  # a program may put another function into the place of this one
_ALWAYS = [("always", None, Warning, None, 0)]
_VALUE = ast.Name(VALUE_NAME, ast.Load(), lineno=1, col_offset=0)
_GET_VALUE = compile(ast.Expression(_VALUE), __file__, "eval")


class CellCompiler:
    """Compiles the cells of a session, each with the `from __future__` imports of earlier ones.

    The text itself is compiled where there is no value to show, or where the cell is too deep: of
    an AST the compiler takes only a third of the depth. Else the last expression of the AST becomes
    an assignment, so that debuggers see one piece of code, as in a plain program.
    """

    def __init__(self, shell: EraShell, sources: CellSources) -> None:
        self._shell = shell
        self._sources = sources
        self._future_flags = 0  # flags of `from __future__ import …` in earlier cells

    def compile(self, source: str, name: str) -> list[CodeType]:
        """Returns the cell's code, and as a second item one that gives the value to be shown.

        Raises what the parser or the compiler raises, a SyntaxError with its line of source.
        """
        source = source_text.normalize(source)
        self._sources.add(name, source)
        try:
            _check_characters(source, name)
            return self._compile_normalized(source, name)
        except SyntaxError as error:
            self._add_source_line(error, name)
            raise

    def _compile_normalized(self, source: str, name: str) -> list[CodeType]:
        text, tree, has_parser_warnings = self._parse(source, name)
        is_changed = tree is not None and bool(self._shell.ast_transformers)
        if is_changed:
            tree = self._shell.transform_ast(tree)
        last = tree.body[-1] if tree is not None and tree.body else None
        if tree is not None and _is_shown(text, last):
            codes = self._compile_with_value(text, tree, name, has_parser_warnings)
        else:
            codes = [_compile(tree if is_changed else text, name, "exec", self._flags, True)]
        is_plain = text is source and not any(code.co_flags & CO_COROUTINE for code in codes)
        program = CellProgram(text, self._future_flags, is_plain)
        self._future_flags |= codes[0].co_flags & _FUTURE_FLAGS
        self._sources.remember_program(name, program)
        return codes

    def _parse(self, source: str, name: str) -> tuple[str, ast.Module | None, bool]:
        """Parses the cell as Python, and only when that fails as Python with IPython's magics.

        Returns the text that could be parsed, its tree, and whether the parser warned of something.
        There is no tree for what is too deep for one.
        """
        flags = self._flags | ast.PyCF_ONLY_AST
        try:
            return source, *_parse_silently(source, name, flags)
        except (RecursionError, MemoryError):
            return source, None, False
        except SyntaxError as error:
            transformed = _transform_magics(self._shell, source)
            if transformed is None:
                raise error.with_traceback(None) from None
        return transformed, *_parse_silently(transformed, name, flags)

    def _compile_with_value(
        self, text: str, tree: ast.Module, name: str, has_parser_warnings: bool
    ) -> list[CodeType]:
        last = tree.body[-1]
        assert isinstance(last, ast.Expr)
        if has_parser_warnings:  # they come with the text, and must come once
            _compile(text, name, "exec", self._flags, True)
        target = ast.copy_location(ast.Name(VALUE_NAME, ast.Store()), last.value)
        assignment = ast.copy_location(ast.Assign([target], last.value), last)
        assigned = ast.Module([*tree.body[:-1], assignment], tree.type_ignores)
        try:
            with _collecting_warnings() if has_parser_warnings else nullcontext():
                return [_compile(assigned, name, "exec", self._flags, True), _GET_VALUE]
        except RecursionError:
            return self._compile_apart(text, last, name)

    def _compile_apart(self, text: str, last: ast.Expr, name: str) -> list[CodeType]:
        """Compiles the text of the last expression, which is too deep, apart from the others."""
        statements, expression = _split_before(text, last)
        first = _compile(statements, name, "exec", self._flags, True)
        flags = self._flags | first.co_flags & _FUTURE_FLAGS
        return [first, _compile(expression, name, "eval", flags, True)]

    @property
    def _flags(self) -> int:
        return self._future_flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def _add_source_line(self, error: SyntaxError, name: str) -> None:
        """Adds the line of source to the error; the compiler looks for it in a file only."""
        lines = self._sources.lines.get(name, [])
        if error.text is None and error.lineno and error.lineno <= len(lines):
            error.text = lines[error.lineno - 1]


def _parse_silently(source: str, name: str, flags: int) -> tuple[ast.Module, bool]:
    """Returns the tree, and whether there were warnings, which are not shown."""
    with _collecting_warnings() as warned:
        tree: ast.Module = _compile(source, name, "exec", flags, True)
    return tree, bool(warned)


@contextmanager
def _collecting_warnings() -> Iterator[list[Any]]:
    """Keeps warnings from being shown meanwhile, and from counting as shown."""
    warned: list[Any] = []
    namespace = vars(warnings)  # a program may have removed what is in it
    changes = {"filters": _ALWAYS, "_showwarnmsg": warned.append}
    previous = {name: namespace[name] for name in changes if name in namespace}
    namespace.update(changes)
    try:
        yield warned
    finally:
        for name in changes:
            del namespace[name]
        namespace.update(previous)


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


def _split_before(source: str, last: ast.Expr) -> tuple[str, str]:
    """Returns the text before the last expression, and the expression at its line and column."""
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
    return statements.decode(), expression


def _transform_magics(shell: EraShell, source: str) -> str | None:
    """Returns the code with its magics and shell escapes as calls; None when it has none."""
    try:
        transformed: str = shell.input_transformer_manager.transform_cell(source)
    except SyntaxError:
        return None
    return transformed if transformed.rstrip("\n") != source.rstrip("\n") else None

"""Runs the code of a cell as a plain interpreter runs a program, and tells how it ended."""

from __future__ import annotations
import __future__

import ast
import asyncio
import atexit
import concurrent.futures
import contextvars
import inspect
import os
import re
import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn

import era_runs
import era_traceback
from era_interrupts import Interrupts
from era_loops import Loops
from era_runs import Run
from era_shell import EraShell
from era_streams import Streams
from IPython.core.error import UsageError

VALUE = 64 * 1024  # characters of an exception's text that the reply carries
LINES = 256 * 1024  # characters of its traceback that the reply carries

_FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
_SEMICOLON = re.compile(r"[ \t]*;")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its exit code, and the uncaught exception, if any."""

    exit_code: int = 0
    exception: dict[str, Any] | None = None


class Program:
    """The user's program, of which each run is a piece."""

    def __init__(
        self,
        shell: EraShell,
        streams: Streams,
        interrupts: Interrupts,
        loops: Loops,
        context: contextvars.Context,
        sources: era_traceback.Sources,
    ) -> None:
        self._shell = shell
        self._streams = streams
        self._interrupts = interrupts
        self._loops = loops
        self._context = context  # of all cells: a ContextVar that one sets, the next one sees
        self._sources = sources
        self._future = 0  # flags of `from __future__ import …` in earlier cells
        shell.on_failure = self._print

    async def run(self, run: Run, code: str) -> Outcome:
        """Run it to its end, that is until its non-daemon threads have ended, too."""
        pid, children = os.getpid(), set(_children())
        result, codes = self._shell.before(code), list[CodeType]()
        self._interrupts.reset()
        self._loops.cell = asyncio.current_task()
        error = self._interrupts.guard(lambda: self._start(run, code, codes))
        if error is None and _awaits(codes):
            error = await self._await(codes)
        outcome = self._outcome(error)
        error = self._interrupts.guard(lambda: _wait_for_rest(run, children))
        if os.getpid() == pid:
            error = error or self._interrupts.guard(lambda: self._shell.after(result))
        if outcome.exit_code == 0 and error is not None:
            outcome = self._outcome(error)
        elif outcome.exit_code == 0 and self._shell.failure is not None:
            outcome = self._outcome(self._shell.failure, shown=True)
        self._loops.cell = None
        self._streams.flush()
        if os.getpid() != pid:
            self._leave(outcome)
        return outcome

    # ------------------------------------------------------------ code

    def _start(self, run: Run, source: str, codes: list[CodeType]) -> None:
        """Compile, and run what can be run without waiting."""
        name = f"<cell {run.number}>"
        self._sources.add(name, source)
        try:
            codes.extend(self._compile(source, name))
        except SyntaxError as error:
            _complete(error, source)
            raise
        if not _awaits(codes):
            value = None
            for code in codes:
                value = eval(code, self._shell.user_ns)
            if len(codes) > 1:
                self._show(value)

    def _show(self, value: object) -> None:
        """Send the value of a last expression, unless the program has its own way for that."""
        own = sys.displayhook is not sys.__displayhook__
        (sys.displayhook if own else self._shell.displayhook)(value)

    def _compile(self, source: str, name: str) -> list[CodeType]:
        """The code of the cell; second, that of its last expression when there is one to show."""
        source, tree = self._parse(source, name)
        tree = self._shell.transform_ast(tree)
        last = tree.body[-1] if tree.body else None
        flags = self._future | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if not isinstance(last, ast.Expr) or _is_silenced(source, last):
            codes = [compile(tree, name, "exec", flags, True)]
        else:
            del tree.body[-1]
            first = compile(tree, name, "exec", flags, True)
            flags |= first.co_flags & _FUTURE
            codes = [first, compile(ast.Expression(last.value), name, "eval", flags, True)]
        self._future |= codes[0].co_flags & _FUTURE
        return codes

    def _parse(self, source: str, name: str) -> tuple[str, ast.Module]:
        """Python first: what is valid Python is never taken for one of IPython's magics."""
        flags = self._future | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        try:
            return source, compile(source, name, "exec", flags, True)
        except SyntaxError as error:
            changed = _transformed(self._shell, source)
            if changed is None:
                raise error.with_traceback(None) from None
        return changed, compile(changed, name, "exec", flags, True)

    async def _await(self, codes: list[CodeType]) -> BaseException | None:
        """Run code with a top-level await in a task of its own, which an interrupt cancels."""
        errors: list[BaseException] = []

        async def cell() -> None:
            try:
                value = None
                for code in codes:
                    value = eval(code, self._shell.user_ns)
                    if code.co_flags & inspect.CO_COROUTINE:
                        value = await value
                if len(codes) > 1:
                    self._show(value)
            except BaseException as error:
                errors.append(error)

        task = self._loops.loop.create_task(cell(), context=self._context)
        self._loops.cell = task
        with self._interrupts.cancelling(task, self._loops):
            await asyncio.wait([task])
        self._loops.cell = asyncio.current_task()
        error = errors[0] if errors else None
        if error is None and not task.cancelled():
            return task.exception()
        if error is None or (
            isinstance(error, asyncio.CancelledError) and self._interrupts.happened
        ):
            trace = None if error is None else error.__traceback__
            return KeyboardInterrupt().with_traceback(trace)
        return error

    # ------------------------------------------------------------ ends

    def _outcome(self, error: BaseException | None, shown: bool = False) -> Outcome:
        """What an uncaught exception means. It is told on stderr, unless it was shown there."""
        if error is None:
            return Outcome()
        if isinstance(error, SystemExit):
            if error.code is None or isinstance(error.code, int):
                return Outcome((error.code or 0) & 0xFF)
            self._streams.complain(f"{error.code}\n")
            return Outcome(1)
        if not shown:
            self._print(error)
        return _failed(error)

    def _print(self, error: BaseException) -> None:
        era_traceback.clean(error)
        if isinstance(error, UsageError):  # of a magic, about how it was called
            self._streams.complain(f"UsageError: {error}\n")
            return
        if sys.excepthook is sys.__excepthook__:
            self._streams.complain(era_traceback.text(error))
            return
        problem = self._interrupts.guard(
            lambda: sys.excepthook(type(error), error, error.__traceback__)
        )
        if problem is not None:
            self._streams.complain(era_traceback.text(error))

    def _leave(self, outcome: Outcome) -> NoReturn:
        """A forked child has come to the end of the program."""
        atexit._run_exitfuncs()
        self._streams.flush()
        os._exit(outcome.exit_code)


def _awaits(codes: list[CodeType]) -> bool:
    return any(code.co_flags & inspect.CO_COROUTINE for code in codes)


def _complete(error: SyntaxError, source: str) -> None:
    """Add the line, which the compiler looks for in a file."""
    lines = source.splitlines()
    if error.text is None and error.lineno and error.lineno <= len(lines):
        error.text = lines[error.lineno - 1]


def _is_silenced(source: str, last: ast.Expr) -> bool:
    """A semicolon after the last expression means that its value is not to be shown."""
    if ";" not in source or last.end_lineno is None or last.end_col_offset is None:
        return False
    line = source.splitlines()[last.end_lineno - 1].encode()
    return _SEMICOLON.match(line[last.end_col_offset :].decode()) is not None


def _transformed(shell: EraShell, source: str) -> str | None:
    """The code with its magics and shell escapes as calls; None when there are none."""
    try:
        changed: str = shell.input_transformer_manager.transform_cell(source)
    except SyntaxError:
        return None
    return changed if changed.rstrip("\n") != source.rstrip("\n") else None


def _wait_for_rest(run: Run, before: set[Any]) -> None:
    """Wait for what a plain interpreter waits for: threads, work in pools, multiprocessing."""
    while True:
        threads = era_runs.threads_of(run)
        for thread in threads:
            thread.join()
        concurrent.futures.wait(tuple(run.futures))
        children = [child for child in _children() - before if not child.daemon]
        for child in children:
            child.join()
        if not threads and not run.futures and not children:
            return


def _children() -> set[Any]:
    """The processes that multiprocessing knows of."""
    module = sys.modules.get("multiprocessing.process")
    return set(module._children) if module is not None else set()


def _failed(error: BaseException) -> Outcome:
    lines, room = [], LINES
    for line in era_traceback.text(error).splitlines():
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    value = era_traceback.value(error)[:VALUE]
    told = {"name": type(error).__name__, "value": value, "traceback": lines}
    return Outcome(130 if isinstance(error, KeyboardInterrupt) else 1, told)

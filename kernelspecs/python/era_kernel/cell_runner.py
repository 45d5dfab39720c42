"""Runs the code of a cell as a plain interpreter runs a program, and returns how it ended."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import inspect
import os
import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn

from IPython.core.error import UsageError

from era_kernel import run_context, tracebacks
from era_kernel.cell_compiler import CellCompiler
from era_kernel.nested_loops import NestedLoops
from era_kernel.run_context import RunContext
from era_kernel.shell import EraShell
from era_kernel.sigint import SigintHandler
from era_kernel.stdio import StandardStreams

MAX_VALUE_CHARS = 64 * 1024  # characters of an exception's text that the reply carries
MAX_TRACEBACK_CHARS = 256 * 1024  # characters of its traceback that the reply carries


@dataclass(frozen=True, slots=True)
class CellResult:
    """The end of a run: its exit code, and the uncaught exception, if any."""

    exit_code: int = 0
    exception: dict[str, Any] | None = None


class CellRunner:
    """Runs the cells of a session, each as a further piece of the user's program."""

    def __init__(
        self,
        shell: EraShell,
        streams: StandardStreams,
        sigint_handler: SigintHandler,
        loops: NestedLoops,
        context: contextvars.Context,
        sources: tracebacks.CellSources,
    ) -> None:
        self._shell = shell
        self._streams = streams
        self._sigint_handler = sigint_handler
        self._loops = loops
        self._context = context  # of all cells: the next cell sees a ContextVar's value
        self._compiler = CellCompiler(shell, sources)
        shell.on_error = self._print_exception

    async def run(self, run: RunContext, code: str) -> CellResult:
        """Runs a cell to its end, that is until its non-daemon threads have ended, too."""
        pid, children = os.getpid(), set(_multiprocessing_children())
        result, codes = self._shell.before_run(code), list[CodeType]()
        self._sigint_handler.reset()
        self._loops.cell_task = asyncio.current_task()
        error = self._sigint_handler.call_interruptible(
            lambda: self._compile_and_run(run, code, codes)
        )
        if error is None and _has_await(codes):
            error = await self._run_with_await(codes)
        cell_result = self._to_result(error)
        error = self._sigint_handler.call_interruptible(
            lambda: _wait_for_threads_and_children(run, children)
        )
        if os.getpid() == pid:
            error = error or self._sigint_handler.call_interruptible(
                lambda: self._shell.after_run(result)
            )
        if cell_result.exit_code == 0 and error is not None:
            cell_result = self._to_result(error)
        elif cell_result.exit_code == 0 and self._shell.shown_error is not None:
            cell_result = self._to_result(self._shell.shown_error, is_shown=True)
        self._loops.cell_task = None
        self._streams.flush()
        if os.getpid() != pid:
            self._exit_forked_child(cell_result)
        return cell_result

    # ------------------------------------------------------------ code

    def _compile_and_run(self, run: RunContext, source: str, codes: list[CodeType]) -> None:
        """Compiles the cell, and runs it unless it has a top-level await."""
        codes.extend(self._compiler.compile(source, f"<cell {run.number}>"))
        if not _has_await(codes):
            value = None
            for code in codes:
                value = eval(code, self._shell.user_ns)
            if len(codes) > 1:
                self._shell.show_value(value)

    async def _run_with_await(self, codes: list[CodeType]) -> BaseException | None:
        """Runs code with a top-level await in a task of its own, which an interrupt cancels."""
        errors: list[BaseException] = []

        async def run_cell() -> None:
            try:
                value = None
                for code in codes:
                    value = eval(code, self._shell.user_ns)
                    if code.co_flags & inspect.CO_COROUTINE:
                        value = await value
                if len(codes) > 1:
                    self._shell.show_value(value)
            except BaseException as error:
                errors.append(error)

        task = self._loops.loop.create_task(run_cell(), context=self._context)
        self._loops.cell_task = task
        with self._sigint_handler.cancelling(task, self._loops):
            await asyncio.wait([task])
        self._loops.cell_task = asyncio.current_task()
        error = errors[0] if errors else None
        if error is None and not task.cancelled():
            return task.exception()
        if error is None or (
            isinstance(error, asyncio.CancelledError) and self._sigint_handler.has_interrupted
        ):
            trace = None if error is None else error.__traceback__
            return KeyboardInterrupt().with_traceback(trace)
        return error

    # ------------------------------------------------------------ ends

    def _to_result(self, error: BaseException | None, is_shown: bool = False) -> CellResult:
        """Turns an uncaught exception into a result, and prints it to stderr unless `is_shown`."""
        if error is None:
            return CellResult()
        if isinstance(error, SystemExit):
            if error.code is None or isinstance(error.code, int):
                return CellResult((error.code or 0) & 0xFF)
            self._streams.write_stderr(f"{error.code}\n")
            return CellResult(1)
        self._shell.set_last_error(error)
        if not is_shown:
            self._print_exception(error)
        return _failed_result(error)

    def _print_exception(self, error: BaseException) -> None:
        tracebacks.remove_kernel_frames(error)
        if isinstance(error, UsageError):  # of a magic, about how it was called
            self._streams.write_stderr(f"UsageError: {error}\n")
            return
        if sys.excepthook is sys.__excepthook__:
            self._streams.write_stderr(tracebacks.format_exception(error))
            return
        problem = self._sigint_handler.call_interruptible(
            lambda: sys.excepthook(type(error), error, error.__traceback__)
        )
        if problem is not None:
            self._streams.write_stderr(tracebacks.format_exception(error))

    def _exit_forked_child(self, cell_result: CellResult) -> NoReturn:
        """Ends a forked child that has come to the end of the program."""
        atexit._run_exitfuncs()
        self._streams.flush()
        os._exit(cell_result.exit_code)


def _has_await(codes: list[CodeType]) -> bool:
    return any(code.co_flags & inspect.CO_COROUTINE for code in codes)


def _wait_for_threads_and_children(run: RunContext, before: set[Any]) -> None:
    """Waits for what a plain interpreter waits for: threads, work in pools, multiprocessing."""
    while True:
        threads = run_context.list_threads(run)
        for thread in threads:
            thread.join()
        concurrent.futures.wait(tuple(run.futures))
        children = [child for child in _multiprocessing_children() - before if not child.daemon]
        for child in children:
            child.join()
        if not threads and not run.futures and not children:
            return


def _multiprocessing_children() -> set[Any]:
    """Returns the processes that multiprocessing knows of."""
    module = sys.modules.get("multiprocessing.process")
    return set(module._children) if module is not None else set()


def _failed_result(error: BaseException) -> CellResult:
    lines, remaining = [], MAX_TRACEBACK_CHARS
    for line in tracebacks.format_exception(error).splitlines():
        remaining -= len(line) + 1
        if remaining < 0:
            break
        lines.append(line)
    value = tracebacks.exception_text(error)[:MAX_VALUE_CHARS]
    exception = {"name": type(error).__name__, "value": value, "traceback": lines}
    return CellResult(130 if isinstance(error, KeyboardInterrupt) else 1, exception)

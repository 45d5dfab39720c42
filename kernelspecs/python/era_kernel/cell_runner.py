"""Runs the code of a cell as a plain interpreter runs a program, and returns how it ended."""

from __future__ import annotations

import contextvars
import inspect
import sys
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass
from gc import collect
from os import _exit as exit_process
from os import getpid
from sys import gettrace, modules, settrace
from types import CodeType, ModuleType
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionResult

from era_kernel import c_stdio, run_context, tracebacks
from era_kernel.cell_compiler import CellCompiler
from era_kernel.executor_processes import executor_processes
from era_kernel.program_end import ProgramEnd
from era_kernel.program_loop import ProgramLoop
from era_kernel.program_signals import Activity, ProgramSignals
from era_kernel.run_context import RunContext
from era_kernel.shell import EraShell
from era_kernel.stdio import StandardStreams

MAX_VALUE_CHARS = 64 * 1024  # characters of an exception's text that the reply carries
MAX_TRACEBACK_CHARS = 256 * 1024  # characters of its traceback that the reply carries

MAX_C_LONG = sys.maxsize

Description = tuple[str, str]  # of an exception: its traceback, and what `str` gives for it


@dataclass(frozen=True, slots=True)
class CellResult:
    """The end of a run: its exit code, and the uncaught exception, if any.

    `fault` names a step of the kernel's own that failed, else it is None.
    """

    exit_code: int = 0
    exception: dict[str, Any] | None = None
    fault: str | None = None


class CellRunner:
    """Runs the cells of a session, each as a further piece of the user's program."""

    def __init__(
        self,
        shell: EraShell,
        streams: StandardStreams,
        signals: ProgramSignals,
        program_loop: ProgramLoop,
        context: contextvars.Context,
        sources: tracebacks.CellSources,
    ) -> None:
        self._shell = shell
        self._streams = streams
        self._signals = signals
        self._program_loop = program_loop
        self._context = context  # of all cells: the next cell sees a ContextVar's value
        self._program_end = ProgramEnd(shell)
        self._compiler = CellCompiler(shell, sources)
        shell.on_error = self._print_exception

    def run(self, run: RunContext, code: str) -> CellResult:
        """Runs a cell to its end, that is until its non-daemon threads have ended, too."""
        pid, children = getpid(), _multiprocessing_children()
        self._signals.reset()
        results: list[ExecutionResult] = []
        codes: list[CodeType] = []
        error = self._call(lambda: results.append(self._shell.before_run(code)))
        if error is not None:
            self._print_exception(error)
        error = self._call(lambda: self._compile_and_run(run, code, codes))
        if error is None and _has_await(codes):
            error = self._run_with_await(codes)
        cell_result = self._to_result(error)
        self._end_forked_child(pid, cell_result)
        error = self._call(lambda: _wait_for_threads_and_children(run, children))
        if results:
            error = error or self._call(lambda: self._shell.after_run(results[0]))
        if cell_result.exit_code == 0 and error is not None:
            cell_result = self._to_result(error)
        elif cell_result.exit_code == 0 and self._shell.shown_error is not None:
            cell_result = self._to_result(self._shell.shown_error, is_shown=True)
        self._flush()
        self._end_forked_child(pid, cell_result)
        # The frames of a failed cell refer to this one: with the error in it, all would be garbage
        # in a cycle, with the cell's variables.
        del error
        results.clear()
        return cell_result

    def set_current_run(self, run: RunContext) -> None:
        """Makes what runs in the context of all cells belong to `run`, from here on."""
        self._context.run(run_context.set_current, run)

    def end_program(self) -> None:
        """Does what the interpreter does at its end, with its output in the current run."""
        self._program_end.run(self._call)
        self._flush()

    def _call(self, function: Callable[[], object]) -> BaseException | None:
        """Calls code of the program in the context of all cells; returns what it raised."""
        if self._signals.activity is Activity.PROGRAM:  # the context is entered already
            return self._signals.call(function)
        return self._signals.call(lambda: self._context.run(function))

    def _flush(self) -> None:
        """Sends what the program printed, by Python and by C."""
        self._call(c_stdio.flush)
        self._call(self._streams.flush)

    # ------------------------------------------------------------ code

    def _compile_and_run(self, run: RunContext, source: str, codes: list[CodeType]) -> None:
        """Compiles the cell, and runs it unless it has a top-level await."""
        codes.extend(self._compiler.compile(source, run.cell_name))
        if not _has_await(codes):
            value, namespace = None, self._shell.user_ns
            for code in codes:
                value = eval(code, namespace)
            if len(codes) > 1:
                if gettrace() is not None:  # it is the program that is traced
                    settrace(None)
                self._shell.show_value(value)

    def _run_with_await(self, codes: list[CodeType]) -> BaseException | None:
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

        def await_cell() -> None:
            loop = self._program_loop.ensure()
            task = loop.create_task(run_cell(), context=self._context)
            self._program_loop.cell_task = task
            try:
                with self._signals.cancelling(task, loop):
                    self._program_loop.run_until_done(task)
            finally:
                self._program_loop.cell_task = None
            error = errors.pop() if errors else CancelledError() if task.cancelled() else None
            if type(error) is CancelledError and self._signals.has_interrupted:
                raise KeyboardInterrupt().with_traceback(error.__traceback__) from None
            if error is not None:
                raise error

        return self._signals.call(await_cell)  # the task runs in the context of all cells

    # ------------------------------------------------------------ ends

    def _to_result(self, error: BaseException | None, is_shown: bool = False) -> CellResult:
        """Turns an uncaught exception into a result, and prints it to stderr unless `is_shown`."""
        if error is None:
            return CellResult()
        if tracebacks.isinstance_of(error, SystemExit):
            return CellResult(self._exit_code(error))
        self._call(lambda: self._shell.set_last_error(error))
        described = self._describe(error) if is_shown else self._print_exception(error)
        if isinstance(described, int):
            return CellResult(described)
        if tracebacks.isinstance_of(error, MemoryError):
            self._call(collect)  # what the next run needs may be garbage in cycles
        return _failed_result(error, *described)

    def _exit_code(self, error: BaseException) -> int:
        """Returns the exit code that SystemExit stands for; prints a code that is no number.

        As `handle_system_exit` of CPython does; a number that no C long holds is -1.
        """
        codes: list[Any] = []
        self._call(lambda: codes.append(error.code))  # type: ignore[attr-defined]
        code = codes[0] if codes else error
        if code is None:
            return 0
        if tracebacks.isinstance_of(code, int):
            number = int.__index__(code)
            return number & 0xFF if -MAX_C_LONG - 1 <= number <= MAX_C_LONG else 0xFF
        texts: list[str] = []
        self._call(lambda: texts.append(str(code)))
        self._write_stderr("".join([*texts, "\n"]))
        return 1

    def _print_exception(self, error: BaseException) -> Description | int:
        """Prints an exception by the program's excepthook, if it has one, else as Python does.

        Returns what was printed and what `str` gives for it, or the exit code with which the hook
        ended the program. As `_PyErr_PrintEx` of CPython.
        """
        tracebacks.remove_kernel_frames(error)
        hook = getattr(sys, "excepthook", None)
        before = ""
        if run_context.current().has_error_messages:
            described = self._describe(error)
            self._shell.publish("error", error_content(_failed_result(error, *described)))
            if hook is sys.__excepthook__:
                return described
        elif tracebacks.isinstance_of(error, UsageError):  # of a magic, about how it was called
            described = self._describe(error)
            self._write_stderr(f"UsageError: {described[1]}\n")
            return described
        if hook is None:
            before = "sys.excepthook is missing\n"
        elif hook is not sys.__excepthook__:
            trace = tracebacks.get_traceback(error)
            problem = self._call(lambda: hook(type(error), error, trace))
            if problem is None:
                return self._describe(error)
            if tracebacks.isinstance_of(problem, SystemExit):
                return self._exit_code(problem)
            tracebacks.remove_kernel_frames(problem)
            text = self._describe(problem)[0]
            before = f"Error in sys.excepthook:\n{text}\nOriginal exception was:\n"
        described = self._describe(error)
        self._write_stderr(before + described[0])
        return described

    def _describe(self, error: BaseException) -> Description:
        """Returns the traceback and the text of an exception; runs code of its class."""
        found: list[Description] = []
        self._call(lambda: found.append(tracebacks.describe_exception(error)))

        def describe_in_mode() -> None:
            formatter = self._shell.InteractiveTB
            if formatter.mode != tracebacks.PLAIN_MODE:
                found[0] = tracebacks.format_in_mode(formatter, error), found[0][1]

        self._call(describe_in_mode)
        return found[0] if found else ("", "")

    def _write_stderr(self, text: str) -> None:
        self._call(lambda: self._streams.write_stderr(text))

    def _end_forked_child(self, parent_pid: int, cell_result: CellResult) -> None:
        """Ends the process if it is a fork, which has come to the end of the program.

        Threads, pools and processes that it knows of are its parent's, unless it has started them:
        only what Python does at its end tells them apart.
        """
        if getpid() != parent_pid:
            self.end_program()
            exit_process(cell_result.exit_code)


def _has_await(codes: list[CodeType]) -> bool:
    return any(code.co_flags & inspect.CO_COROUTINE for code in codes)


def _wait_for_threads_and_children(run: RunContext, before: set[Any]) -> None:
    """Waits for what a plain interpreter waits for: threads, work in pools, multiprocessing."""
    while True:
        threads = run_context.list_threads(run)
        for thread in threads:
            thread.join()
        if run.futures:
            wait_for_futures(tuple(run.futures))
        new = _multiprocessing_children() - before - executor_processes()
        children = [child for child in new if not child.daemon]
        for child in children:
            child.join()
        if not threads and not run.futures and not children:
            return


def _multiprocessing_children() -> set[Any]:
    """Returns the processes that multiprocessing knows of."""
    module = modules.get("multiprocessing.process")
    children = vars(module).get("_children") if type(module) is ModuleType else None
    return set(children) if type(children) is set else set()


def error_content(result: CellResult) -> dict[str, Any]:
    """Returns the fields that Jupyter's messages have for the exception of a run that failed."""
    exception = result.exception or {
        "name": "SystemExit",
        "value": str(result.exit_code),
        "traceback": [],
    }
    names = {"ename": "name", "evalue": "value", "traceback": "traceback"}
    return {key: exception[name] for key, name in names.items()}


def _failed_result(error: BaseException, text: str, value: str) -> CellResult:
    lines, remaining = [], MAX_TRACEBACK_CHARS
    for line in text.splitlines():
        remaining -= len(line) + 1
        if remaining < 0:
            break
        lines.append(line)
    name = tracebacks.type_name(type(error))
    exception = {"name": name, "value": value[:MAX_VALUE_CHARS], "traceback": lines}
    # As in Python, where a subclass is an error like others.
    return CellResult(130 if type(error) is KeyboardInterrupt else 1, exception)

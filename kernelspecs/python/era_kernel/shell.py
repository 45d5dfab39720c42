"""Adapts IPython's shell: rich output, magics and completion without terminal, history or caches.

Cells are compiled and run by `cell_runner`; of IPython's way to run them only what tools build on
is kept: the events around a run, formatters, magics, and `get_ipython()`.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import inspect
import sys
import warnings
from _sitebuiltins import Quitter
from asyncio import new_event_loop
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from subprocess import CalledProcessError
from sys import _getframe as get_frame
from sys import exc_info, settrace, version_info
from types import CodeType, ModuleType
from typing import Any

from ipykernel.jsonutil import encode_images, json_clean
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell
from IPython.core.macro import Macro
from IPython.core.prefilter import PrefilterManager
from IPython.utils.path import get_home_dir
from IPython.utils.text import LSString, SList
from traitlets import Any as AnyTrait
from traitlets import Instance, Type, default

from era_kernel import debugger_frames, run_context, shell_commands, stack_patches, tracebacks
from era_kernel.magic_code import MagicCompiler
from era_kernel.magic_transformer import LineKeepingTransformer
from era_kernel.magics import EraMagics
from era_kernel.output_history import OutputHistory

VALUE_NAME = "<value>"  # of the variable with a last expression's value; no program has this name

_HIDDEN_NAMES = ("__builtin__", "_", "__", "___")


class EraDisplayHook(DisplayHook):
    """Sends the value of a last expression as an `execute_result`, and keeps the last ones."""

    def __call__(self, result: Any = None) -> None:
        run = run_context.current()
        if result is None or run.is_silent:
            return
        data, metadata = self.compute_format_data(result)
        self.fill_exec_result(result)
        if data:
            content = {
                "execution_count": run.number,
                "data": encode_images(data),
                "metadata": metadata,
            }
            self.shell.publish("execute_result", content)
            self.shell.kernel.history.set_output(run.number, data.get("text/plain"))
        self.update_user_ns(result)

    def update_user_ns(self, result: Any) -> None:
        """Remembers the value for `_` and `Out`."""
        self.shell.output_history.remember_value(run_context.current().number, result)


class EraDisplayPublisher(DisplayPublisher):
    """Sends what `display()` is given."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        self._validate_data(data, metadata)
        content = {
            "data": encode_images(data),
            "metadata": metadata or {},
            "transient": transient or {},
        }
        self.shell.publish("update_display_data" if update else "display_data", content)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.publish("clear_output", {"wait": wait})


class EraShell(InteractiveShell):
    """The shell of the user's program; `sys.modules["__main__"]` is its namespace.

    Not a subclass of ipykernel's shell: libraries that find one print for a notebook's front-end,
    where a plain program's output is wanted.
    """

    displayhook_class = Type(EraDisplayHook)
    display_pub_class = Type(EraDisplayPublisher)
    kernel = AnyTrait()
    find_loop = staticmethod(new_event_loop)  # returns the loop of the program's top-level code
    shown_error: BaseException | None = None  # that a magic or a formatter has shown in this run
    _is_in_run_cell = False
    output_history = Instance(OutputHistory, ())
    compiler_class = Type(MagicCompiler)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        atexit.unregister(self.atexit_operations)  # it empties the namespace before user callbacks
        self.on_error: Callable[[BaseException], None] = _ignore_error
        history = self.history_manager
        history.input_hist_raw = history.input_hist_parsed = self.output_history.inputs
        history.output_hist = self.output_history.values
        debugger_frames.install()
        stack_patches.install()
        self.builtin_trap.auto_builtins = {"get_ipython": self.get_ipython}
        builtins.get_ipython = self.get_ipython  # type: ignore[attr-defined]

    def adopt_process(self, kernel: Any) -> None:
        """Makes this the shell of this process: of its `__main__`, environment and directory.

        A shell is made once, before kernels are forked, since its objects are many: what a fork
        makes or initializes itself is no longer shared with the others.
        """
        self.kernel = kernel
        super().init_ipython_dir(None)
        super().init_profile_dir(None)
        self.starting_dir, self.home_dir = str(Path.cwd()), get_home_dir()
        self.init_create_namespaces(sys.modules["__main__"])
        self.Completer.namespace = self.Completer.global_namespace = self.user_ns
        for name in _HIDDEN_NAMES:
            self.user_ns.pop(name, None)
        self.save_sys_module_state()

    @default("input_transformer_manager")
    def _input_transformer_manager(self) -> LineKeepingTransformer:
        return LineKeepingTransformer()

    @default("exiter")
    def _exiter(self) -> Any:
        return None

    def publish(self, msg_type: str, content: dict[str, Any]) -> None:
        """Sends a message of the run that the calling code belongs to."""
        kernel = self.kernel
        if kernel.iopub_socket.is_forked_child:  # a fork has no connection
            return
        kernel.session.send(
            kernel.iopub_socket,
            msg_type,
            json_clean(content),
            parent=run_context.current().parent_header,
            ident=msg_type.encode(),
        )

    def show_value(self, value: object) -> None:
        """Sends the value of a last expression, or hands it to the program's own displayhook.

        A bare `exit` or `quit` is a call, as everywhere in IPython, and a macro is run.
        """
        self.user_ns.pop(VALUE_NAME, None)
        if type(value) is Quitter:
            value()
        if type(value) is Macro:
            self.run_magic_body(value.value)
            return
        hook = getattr(sys, "displayhook", sys.__displayhook__)
        (self.displayhook if hook is sys.__displayhook__ else hook)(value)

    # ------------------------------------------------------------ around a run

    def before_run(self, code: str) -> ExecutionResult:
        """Tells extensions that a run begins."""
        self.shown_error = None
        self.output_history.remember_input(run_context.current().number, code)
        info = ExecutionInfo(code, False, False, True, None, None, transformed_cell=code)
        result = ExecutionResult(info)
        self.last_execution_result = result
        self.events.trigger("pre_execute")
        if not run_context.current().is_silent:
            self.events.trigger("pre_run_cell", info)
        self._forget_callback_error()
        return result

    def after_run(self, result: ExecutionResult) -> None:
        """Tells extensions that a run has ended; matplotlib's shows figures now."""
        settrace(None)  # a debugger that was not told to quit
        shown_before, self.shown_error = self.shown_error, None
        if self.call_pdb and result.error_in_exec is not None:
            self.debugger()
        self.events.trigger("post_execute")
        if not run_context.current().is_silent:
            self.events.trigger("post_run_cell", result)
        self.shown_error = shown_before or self._forget_callback_error()

    def _forget_callback_error(self) -> BaseException | None:
        """Forgets the error of a callback, which fails no run; returns it if it is an interrupt."""
        error, self.shown_error = self.shown_error, None
        return error if isinstance(error, KeyboardInterrupt) else None

    def drop_program(self) -> None:
        """Drops all references to the program's variables: nothing is run any more."""
        self.shown_error = self.last_execution_result = None
        self.output_history.clear()
        self.user_module = sys.modules["__main__"] = ModuleType("__main__")
        self.user_ns = vars(self.user_module)
        self._orig_sys_modules_main_mod = None
        self._main_mod_cache.clear()
        self.ns_table.clear()
        self.Completer.namespace = self.Completer.global_namespace = self.user_ns

    # ------------------------------------------------------------ magics and shell lines

    def init_magics(self) -> None:
        super().init_magics()
        magics = EraMagics(self)
        self.register_magics(magics)
        for name, function in magics.make_script_magics().items():
            self.magics_manager.register_function(function, "cell", name)
        self.magics_manager.register_lazy("store", "IPython.extensions.storemagic")

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        self._offer_names()
        with self.compile.at_magic(get_frame(_stack_depth), has_body=False):
            return super().run_line_magic(magic_name, line, _stack_depth + 1)

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> Any:
        self._offer_names()
        with self.compile.at_magic(get_frame(1), has_body=True):
            return super().run_cell_magic(magic_name, line, cell)

    def _offer_names(self) -> None:
        """Puts into the namespace what magics look for there: the directories, and the values."""
        self.user_ns.setdefault("_dh", self.history_manager.dir_hist)
        self.user_ns.setdefault("_oh", self.output_history.values)

    def run_magic_body(self, cell: str) -> None:
        """Runs code that a cell magic holds; its errors go on to the cell."""
        source = self.transform_cell(cell)
        with self.compile.extra_flags(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT):
            tree = self.transform_ast(self.compile.ast_parse(source))
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            name = self.compile.place.cell if self.compile.place else "<magic>"
            self._run_code(self.compile(tree, name, "exec"))
            if last is not None:
                code = self.compile(ast.Expression(last.value), name, "eval")
                self.show_value(self._run_code(code))

    def _run_code(self, code: CodeType) -> Any:
        """Runs code to its end, also what it awaits."""
        value = eval(code, self.user_ns)
        if not code.co_flags & inspect.CO_COROUTINE:
            return value
        return self.find_loop().run_until_complete(value)

    def system(self, cmd: str) -> None:
        """Runs a shell line; its output is captured like that of all children."""
        command = self.var_expand(cmd, depth=1)
        if command.split()[:1] in (["cd"], ["pip"], ["conda"]):
            name = command.split()[0]
            warnings.warn(
                f"!{name} works on a process that ends with it; use %{name}", stacklevel=2
            )
        code = shell_commands.run_command(command)
        self._finish_command(cmd, code)

    system_raw = system_piped = system

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> Any:
        """Returns the output of a shell line, as a list of its lines if `split`."""
        output, code = shell_commands.read_command(self.var_expand(cmd, depth=depth + 1))
        if self.system_raise_on_error:
            self._finish_command(cmd, code)
        return SList(output.splitlines()) if split else LSString(output)

    def _finish_command(self, command: str, code: int) -> None:
        """Sets `_exit_code`: negative where a signal ended the command."""
        code = 128 - code if code > 128 else code
        self.user_ns["_exit_code"] = code
        if self.system_raise_on_error and code:
            raise CalledProcessError(code, command)

    def run_cell(self, *args: Any, **options: Any) -> ExecutionResult:
        """Runs code for `get_ipython().run_cell`; an interrupt ends the run around it, too."""
        before, self._is_in_run_cell = self._is_in_run_cell, True
        try:
            result = super().run_cell(*args, **options)
        finally:
            self._is_in_run_cell = before
        if isinstance(result.error_in_exec, KeyboardInterrupt):
            raise result.error_in_exec
        return result

    def safe_execfile(self, fname: Any, *where: Any, **options: Any) -> None:
        """Runs a file for `%run`; what it raises ends the run."""
        try:
            super().safe_execfile(fname, *where, **{**options, "raise_exceptions": True})
        except BaseException:  # what the file defined until then is there all the same
            defined = where[0] if where else {}
            self.user_ns.update({k: v for k, v in defined.items() if not k.startswith("__")})
            raise

    def set_next_input(self, s: str, replace: bool = False) -> None:
        """Prints what others put into the next cell: `%load` and `%recall` do."""
        print(s)

    def debugger(self, force: bool = False) -> None:
        """Lets the user look at where the last error came from."""
        trace = getattr(sys, "last_traceback", None)
        if trace is None:
            raise UsageError("No traceback has been produced, nothing to debug.")
        import pdb

        pdb.post_mortem(trace)

    def reset(self, new_session: bool = True, aggressive: bool = False) -> None:
        super().reset(new_session, aggressive)
        self.output_history.clear()

    # ------------------------------------------------------------ errors, as plain text on stderr

    def set_last_error(self, error: BaseException) -> None:
        """Keeps the newest uncaught error where `pdb.pm()` and `%tb` look for it."""
        tracebacks.remove_kernel_frames(error)
        if self.last_execution_result is not None:
            self.last_execution_result.error_in_exec = error
        sys.last_type, sys.last_value = type(error), error
        sys.last_traceback = tracebacks.get_traceback(error)
        if version_info >= (3, 12):
            sys.last_exc = error

    def showtraceback(self, exc_tuple: Any = None, *_: Any, **__: Any) -> None:
        error = exc_tuple[1] if exc_tuple and exc_tuple[0] else exc_info()[1]
        if error is not None:
            self.shown_error = error
            if self._is_in_run_cell and isinstance(error, KeyboardInterrupt):
                return
            if not isinstance(error, SystemExit):
                self.on_error(error)

    def showsyntaxerror(self, *_: Any, **__: Any) -> None:
        self.showtraceback()

    def showindentationerror(self) -> None:
        self.showtraceback()

    # ------------------------------------------------------------ parts that plain programs lack

    def enable_gui(self, gui: str | None = None) -> None:
        if gui is not None:
            raise UsageError(f"There is no display here for {gui}.")

    @cached_property
    def prefilter_manager(self) -> PrefilterManager:
        """Made when `get_ipython().run_cell()` needs it: it takes a fifth of the shell's start."""
        return PrefilterManager(shell=self, parent=self)

    def init_prefilter(self) -> None:
        """Does nothing: `prefilter_manager` is made when needed."""

    def init_ipython_dir(self, ipython_dir: str | None) -> None:
        """Does nothing: it depends on the environment of the process (see `adopt_process`)."""

    def init_profile_dir(self, profile_dir: Any) -> None:
        """Does nothing, for the same reason."""

    def init_environment(self) -> None:
        """Sets no variables that ask programs for colours."""

    def init_user_ns(self) -> None:
        """Puts no `In`, `Out`, `exit` or `open` of IPython's among the user's names."""

    def init_prompts(self) -> None:
        """Sets no `sys.ps1`, which tells libraries that somebody types."""

    def init_sys_modules(self) -> None:
        """Does nothing: `__main__` is in `sys.modules`."""

    def init_virtualenv(self) -> None:
        """Does nothing: the server sets `sys.path`."""

    def init_logstart(self) -> None:
        """Starts no log of what was run."""


def _ignore_error(error: BaseException) -> None:
    """Ignores an error; the default of `on_error` until that is set."""

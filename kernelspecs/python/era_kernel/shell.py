"""Adapts IPython's shell: rich output, magics and completion without terminal, history or caches.

Cells are compiled and run by `cell_runner`; of IPython's way to run them only what tools build on
is kept: the events around a run, formatters, magics, and `get_ipython()`.
"""

from __future__ import annotations

import atexit
import builtins
import sys
from _sitebuiltins import Quitter
from collections.abc import Callable
from functools import cached_property
from typing import Any

from ipykernel.jsonutil import encode_images, json_clean
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell
from IPython.core.prefilter import PrefilterManager
from traitlets import Any as AnyTrait
from traitlets import Type, default

from era_kernel import run_context
from era_kernel.magic_transformer import LineKeepingTransformer

_HIDDEN_NAMES = ("__builtin__", "_", "__", "___")


class EraDisplayHook(DisplayHook):
    """Sends the value of a last expression as an `execute_result`, and keeps nothing of it."""

    def __call__(self, result: Any = None) -> None:
        if result is None:
            return
        data, metadata = self.compute_format_data(result)
        self.fill_exec_result(result)
        if data:
            run = run_context.current()
            content = {
                "execution_count": run.number,
                "data": encode_images(data),
                "metadata": metadata,
            }
            self.shell.publish("execute_result", content)

    def update_user_ns(self, result: Any) -> None:
        """Does nothing: there is no `Out`."""


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
    shown_error: BaseException | None = None  # that a magic or a formatter has shown in this run
    system = InteractiveShell.system_raw  # its output is captured like that of all children

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(user_module=sys.modules["__main__"], **kwargs)
        atexit.unregister(self.atexit_operations)  # it empties the namespace before user callbacks
        self.on_error: Callable[[BaseException], None] = _ignore_error
        self.builtin_trap.auto_builtins = {"get_ipython": self.get_ipython}
        builtins.get_ipython = self.get_ipython  # type: ignore[attr-defined]
        for name in _HIDDEN_NAMES:
            self.user_ns.pop(name, None)

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

        A bare `exit` or `quit` is a call, as everywhere in IPython.
        """
        if isinstance(value, Quitter):
            value()
        own = sys.displayhook is not sys.__displayhook__
        (sys.displayhook if own else self.displayhook)(value)

    # ------------------------------------------------------------ around a run

    def before_run(self, code: str) -> ExecutionResult:
        """Tells extensions that a run begins."""
        self.shown_error = None
        info = ExecutionInfo(code, False, False, True, None, None, transformed_cell=code)
        result = ExecutionResult(info)
        self.events.trigger("pre_execute")
        self.events.trigger("pre_run_cell", info)
        return result

    def after_run(self, result: ExecutionResult) -> None:
        """Tells extensions that a run has ended; matplotlib's shows figures now."""
        self.events.trigger("post_execute")
        self.events.trigger("post_run_cell", result)

    # ------------------------------------------------------------ errors, as plain text on stderr

    def showtraceback(self, exc_tuple: Any = None, *_: Any, **__: Any) -> None:
        error = exc_tuple[1] if exc_tuple and exc_tuple[0] else sys.exc_info()[1]
        if error is not None:
            self.shown_error = error
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

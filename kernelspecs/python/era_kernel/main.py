"""A Jupyter kernel for Python whose cells behave like programs of the plain interpreter.

    era_kernel.main:main(connection file)    in a fork of a warm interpreter
    python kernelspecs/python FILE           started by any Jupyter client

Requests are answered one after the other by the main thread. What a run needs beside its code is in
the request's metadata: `{"era": {"nonce", "number", "env", "ends"}}`; `ends` says that the program
is over with this run, so that exit functions and finalizers belong to the run.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from os import _exit as exit_process
from os import environ, getpid
from pathlib import Path
from time import sleep
from typing import Any

import comm
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.session import Session
from traitlets import Any as AnyTrait
from traitlets.config import Config

from era_kernel import (
    c_exit,
    cell_files,
    descriptor_patches,
    excepthooks,
    flush_at_exit,
    import_patches,
    library_copies,
    os_exec_patches,
    run_context,
    spawned_children,
    tracebacks,
)
from era_kernel.cell_runner import CellResult, CellRunner, error_content
from era_kernel.comm_requests import COMM_MESSAGES, CommRequests
from era_kernel.control_thread import ControlServer
from era_kernel.history import History
from era_kernel.input_patches import InputPatches
from era_kernel.inspection import Inspector
from era_kernel.kernel_sockets import KernelSockets
from era_kernel.module_reload import ModuleReloader
from era_kernel.output_publisher import OutputPublisher
from era_kernel.program_loop import ProgramLoop
from era_kernel.program_signals import Activity, ProgramSignals
from era_kernel.raw_sockets import Parts
from era_kernel.request_loop import RequestLoop, SocketsClosed
from era_kernel.run_context import RunContext
from era_kernel.shell import EraShell
from era_kernel.standard_requests import (
    ABORTED_REPLY,
    NO_CODE_REPLY,
    STATIC_REQUESTS,
    AbortPolicy,
    StandardRequests,
)
from era_kernel.stdio import StandardStreams
from era_kernel.tracebacks import CellSources
from era_kernel.wire_session import WireSession

MAX_FAULTS = 50  # requests or waits in a row that fail; then there is no use in going on


def main(connection_file: str) -> None:
    """Serves as a kernel until a client asks for its end."""
    library_copies.end()
    # An interpreter reads this variable when it starts; a fork gets its environment later. Bytecode
    # files tell versions of a source apart by the second only.
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    connection = json.loads(Path(connection_file).read_bytes())
    session = WireSession(
        key=connection.get("key", "").encode(),
        signature_scheme=connection.get("signature_scheme", "hmac-sha256"),
    )
    sockets = KernelSockets(connection)
    kernel = EraKernel.instance(
        session=session,
        output=OutputPublisher(session, sockets.iopub),
        sockets=sockets,
        stderr_fd=os.dup(2),
        stack_dump_file=connection.get("dump"),
    )
    # Programs that walk through all modules, to replace functions in them, must not find these.
    for name in OWN_MODULES:
        del sys.modules[name]
    status = 1
    try:
        kernel.serve()
        kernel.end_program()
        status = 0
    except BaseException as error:
        tracebacks.log_fault(2, error)
    kernel.flush_and_close()
    exit_process(status)  # the interpreter's own end was done: see `c_exit`


class EraKernel(IPythonKernel):
    """Answers a client's requests; completion, inspection and comms are ipykernel's."""

    debugger_class = AnyTrait()  # the real one would import 9 MB of modules

    def __init__(
        self,
        session: Session,
        output: OutputPublisher,
        sockets: KernelSockets,
        stderr_fd: int,
        stack_dump_file: str | None,
    ) -> None:
        # Skips IPythonKernel.__init__, which starts a debugger and another shell.
        super(IPythonKernel, self).__init__(
            session=session, iopub_socket=output, log=_silent_logger()
        )
        self._pid = getpid()
        self._output, self._sockets, self._stderr_fd = output, sockets, stderr_fd
        self._current_request: dict[str, Any] = {}
        self._run_count = self._unstored_count = 0
        self.history, self._abort_policy = History(), AbortPolicy()
        self._is_closed = self._is_shutting_down = False
        context = contextvars.copy_context()
        self._module_reloader = ModuleReloader(Path.cwd())
        self._streams = StandardStreams(output)
        output.start()
        output.begin_run(RunContext({}))
        self._streams.install()
        self.shell = EraShell.instance()
        self.shell.adopt_process(self)
        self.shell.compile.sources = sources = CellSources()
        self._signals = ProgramSignals(self._report_late_error)
        self.comm_manager = manager = comm.get_comm_manager()
        self._standard_requests = StandardRequests(
            self.shell, manager, self.history, self._signals.call
        )
        self._comm_requests = CommRequests(manager, output, self._signals.call)
        program_loop = ProgramLoop(self._signals)
        self.shell.find_loop = program_loop.ensure
        self._control_server = ControlServer(session, sockets, stderr_fd)
        self._request_loop = RequestLoop(
            sockets.shell, self._control_server, self._signals, program_loop
        )
        self._cell_runner = CellRunner(
            self.shell, self._streams, self._signals, program_loop, context, sources
        )
        self._program_loop = program_loop
        self._inspector = Inspector(self.shell, sources, program_loop)
        if stack_dump_file is not None:
            self._inspector.enable_stack_dump(stack_dump_file)
        self._patch_libraries(sources)

    def _patch_libraries(self, sources: CellSources) -> None:
        """Puts what belongs to the kernel into the places of library functions."""
        InputPatches(self._control_server, self._output, self.shell.publish).install()
        excepthooks.install(self._streams.write_stderr)
        cell_files.install(sources)
        import_patches.install(
            {
                "doctest": cell_files.patch_doctest,
                "multiprocessing.spawn": lambda spawn: spawned_children.patch(spawn, sources),
            }
        )
        run_context.install()
        self._program_loop.install()
        self._signals.install()
        flush_at_exit.install(self.flush_and_close, self._stderr_fd)
        os_exec_patches.install(self.flush_and_close)
        c_exit.install(self.flush_and_close)

    def serve(self) -> None:
        """Answers requests until one asks for the end, whatever a program does meanwhile."""
        handlers = STATIC_REQUESTS | self._inspector.handlers
        handlers = handlers | {"activity_request": self._activity}
        self._control_server.start(handlers, self._request_loop.put_control, self._output)
        self._send_on_iopub("status", {"execution_state": "starting"})
        descriptor_patches.install(self._output.is_pipe)
        fault_count = 0
        while not self._is_shutting_down:
            try:
                socket, parts = self._request_loop.next()
                self._dispatch(socket, parts)
                self._end_fork()
                fault_count = 0
            except BaseException as error:  # of a message that makes no sense, or of a loop
                self._end_fork()
                while self._is_closed:  # a thread of the program is ending the process
                    sleep(60)
                fault_count += 1
                if fault_count == MAX_FAULTS or isinstance(error, SocketsClosed):
                    raise
                tracebacks.log_fault(self._stderr_fd, error)

    def _end_fork(self) -> None:
        """Ends the process if it is a fork that code of the program made outside a run."""
        if getpid() != self._pid:
            self.end_program()
            exit_process(0)

    def end_program(self) -> None:
        """Does what the interpreter does at its end: calls exit functions and finalizers."""
        self._cell_runner.end_program()

    def flush_and_close(self) -> None:
        """Sends all output that is left and closes the sockets, before the process ends."""
        if not self._is_closed:
            self._is_closed = True
            self._streams.flush()
            self._control_server.close()
            self._output.close()
            self._sockets.close()

    # ------------------------------------------------------------ requests

    def _dispatch(self, socket: Any, parts: Parts) -> None:
        identities, frames = self.session.feed_identities(parts)
        request = self.session.deserialize(frames)
        self._current_request = request
        self._shell_parent_ident.set(identities)
        kind = request["header"]["msg_type"]
        self._send_on_iopub("status", {"execution_state": "busy"})
        if socket is self._sockets.shell and self._abort_policy.is_aborted(kind):
            self.session.send(socket, "execute_reply", ABORTED_REPLY, request, identities)
        elif kind == "execute_request":
            self.execute_request(socket, identities, request)
        elif kind == "shutdown_request":
            self.shutdown_request(socket, identities, request)
        elif kind in COMM_MESSAGES:
            self._comm_requests.handle(kind, identities, request)
        else:
            content = self._standard_requests.answer(kind, request["content"])
            if content is not None:
                reply = kind.removesuffix("_request") + "_reply"
                self.session.send(socket, reply, content, request, identities)
        self._send_on_iopub("status", {"execution_state": "idle"}, request)

    def execute_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Runs code. The reply says how the run ended, the fence that all its output was sent.

        Whatever fails in here, both are sent.
        """
        content, era = parent["content"], parent["metadata"].get("era") or {}
        if not isinstance(content.get("code"), str):
            self.session.send(stream, "execute_reply", NO_CODE_REPLY, parent, ident)
            return
        run = self._number_run(parent, era)
        run.stdin_client = ident if content.get("allow_stdin", False) else None
        try:
            reply = self._execute(run, content, era)
        except BaseException as error:
            reply = _execute_reply(run, self._fault_result(error))
        finally:
            self._signals.activity = Activity.KERNEL
            if getpid() != self._pid:  # a forked child, in which something of ours failed
                exit_process(1)
        run.stdin_client = None
        self._output.finish_run(run)
        if reply["status"] == "error" and not era:
            self._abort_policy.on_failure(content, self._request_loop.count_waiting())
            if reply["era"]["exception"] is None:  # an exit, of which nothing was told yet
                fields = {key: reply[key] for key in ("ename", "evalue", "traceback")}
                self._send_on_iopub("error", fields)
        self.session.send(stream, "execute_reply", reply, parent, ident)

    def _number_run(self, request: dict[str, Any], era: Mapping[str, Any]) -> RunContext:
        """Numbers a run and remembers its code, unless the client wishes no trace of it."""
        content = request["content"]
        is_silent = bool(content.get("silent", False))
        is_stored = bool(content.get("store_history", True)) and not is_silent
        self._run_count += is_stored
        run = RunContext(request["header"], era.get("number", self._run_count), era.get("nonce"))
        run.is_silent, run.has_error_messages = is_silent, not era
        if is_stored:
            self.history.add(run.number, content["code"])
        elif not era:  # another cell has this number
            self._unstored_count += 1
            run.cell_name = f"<unstored cell {self._unstored_count}>"
        return run

    def _execute(
        self, run: RunContext, content: dict[str, Any], era: dict[str, Any]
    ) -> dict[str, Any]:
        """Runs the code of a request; returns the reply."""
        if not run.is_silent:
            execute_input = {"code": content["code"], "execution_count": run.number}
            self._send_on_iopub("execute_input", execute_input)
        self._begin_run(run)
        previous = self._set_environment(era.get("env") or {})
        result = self._cell_runner.run(run, content["code"])
        if era.get("ends"):
            self.end_program()
        self._attempt(lambda: _restore_environment(previous))
        self._attempt(self._module_reloader.remember_imports)
        reply = _execute_reply(run, result)
        expressions = content.get("user_expressions")
        if expressions and result.exit_code == 0:
            reply["user_expressions"] = self._standard_requests.evaluate(expressions)
        return reply

    def _begin_run(self, run: RunContext) -> None:
        """Makes streams, modules and argv new, as for a program."""
        run_context.set_current(run)
        self._cell_runner.set_current_run(run)
        self._output.begin_run(run)
        self._streams.install()
        self._program_loop.restore()
        self._attempt(self._module_reloader.forget_changed)
        sys.argv = ["main.py"]

    def _set_environment(self, env: Mapping[str, str]) -> dict[str, str | None]:
        """Sets this run's variables; returns their previous values."""
        previous: dict[str, str | None] = {}

        def set_variables() -> None:
            previous.update({name: environ.get(name) for name in env})
            environ.update(env)

        self._attempt(set_variables)
        return previous

    def _attempt(self, step: Callable[[], object]) -> None:
        """Takes a step of a run; one that fails, because of what a program did, is only logged."""
        error = self._signals.call(step)
        if error is not None:
            tracebacks.log_fault(self._stderr_fd, error)

    def _fault_result(self, error: BaseException) -> CellResult:
        """Returns the end of a run in which a step of the kernel failed, and tells the user."""
        remark = f"The kernel failed in a step of its own: {tracebacks.describe_fault(error)}.\n"
        self._signals.call(lambda: self._streams.write_stderr(remark))
        return CellResult(1, fault=tracebacks.describe_fault(error))

    def _report_late_error(self, error: BaseException) -> None:
        """Prints what a signal handler raised after the program's end, as late output."""
        tracebacks.remove_kernel_frames(error)
        self._streams.write_stderr(tracebacks.format_exception(error))

    def _activity(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answers whether code of the program runs; called by the control thread."""
        return {"status": "ok", "is_program_running": self._request_loop.is_program_running}

    def shutdown_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Ends the kernel after this reply, as a program ends."""
        content = {"status": "ok", "restart": bool(parent["content"].get("restart", False))}
        self.session.send(stream, "shutdown_reply", content, parent, ident)
        self._send_on_iopub("shutdown_reply", content)
        self._is_shutting_down = True

    # ------------------------------------------------------------ for ipykernel's own code

    def get_parent(self, channel: str | None = None) -> dict[str, Any]:
        return self._current_request

    def _send_on_iopub(self, kind: str, content: Any, parent: Any = None) -> None:
        ident = f"kernel.{self.ident}.{kind}".encode()
        self.session.send(self.iopub_socket, kind, content, parent or self._current_request, ident)


def _restore_environment(previous: Mapping[str, str | None]) -> None:
    for name, value in previous.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value


def _execute_reply(run: RunContext, result: CellResult) -> dict[str, Any]:
    era = {"exit_code": result.exit_code, "exception": result.exception, "fault": result.fault}
    reply: dict[str, Any] = {
        "status": "ok",
        "execution_count": run.number,
        "payload": [],
        "user_expressions": {},
        "era": era,
    }
    return {**reply, "status": "error", **error_content(result)} if result.exit_code else reply


def _silent_logger() -> logging.Logger:
    """Returns a logger that stays silent however a program configures logging."""
    logger = logging.Logger("era")
    logger.disabled = True
    return logger


def _config() -> Config:
    """Returns IPython's settings, without a history, which would grow with each run."""
    config = Config()
    config.HistoryManager.hist_file = ":memory:"
    config.HistoryManager.enabled = False
    settings = {"cache_size": 0, "colors": "nocolor", "xmode": tracebacks.PLAIN_MODE}
    config.InteractiveShell.update(settings)
    return config


# Once for all kernels that are forked later; the shell imports more modules.
EraShell.instance(config=_config())
library_copies.bind_modules()
# Listed before a fork, in which a look at each name copies memory.
OWN_MODULES = tuple(name for name in sys.modules if name.partition(".")[0] == "era_kernel")

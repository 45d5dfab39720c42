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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import _exit as exit_process
from os import environ, getpid
from pathlib import Path
from typing import Any

import comm
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.session import Session
from traitlets import Any as AnyTrait
from traitlets.config import Config

from era_kernel import excepthooks, exec_patches, exit_patches, run_context, tracebacks
from era_kernel.cell_runner import CellResult, CellRunner
from era_kernel.control_thread import ControlServer
from era_kernel.input_patches import InputPatches
from era_kernel.inspection import Inspector
from era_kernel.module_reload import ModuleReloader
from era_kernel.output_publisher import OutputPublisher
from era_kernel.program_loop import ProgramLoop
from era_kernel.program_signals import Activity, ProgramSignals
from era_kernel.raw_sockets import Parts, Socket
from era_kernel.request_loop import RequestLoop, SocketsClosed
from era_kernel.run_context import RunContext
from era_kernel.shell import EraShell
from era_kernel.sockets import KernelSockets
from era_kernel.stdio import StandardStreams
from era_kernel.tracebacks import CellSources
from era_kernel.wire_session import WireSession

MAX_FAULTS = 50  # requests or waits in a row that fail; then there is no use in going on


def main(connection_file: str) -> None:
    """Serves as a kernel until a client asks for its end."""
    # An interpreter reads this variable when it starts; a fork gets its environment later. Bytecode
    # files tell versions of a source apart by the second only.
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    connection = json.loads(Path(connection_file).read_bytes())
    session = WireSession(
        key=connection["key"].encode(), signature_scheme=connection["signature_scheme"]
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
    for name in [name for name in sys.modules if name.partition(".")[0] == "era_kernel"]:
        del sys.modules[name]
    kernel.serve()
    kernel.end_program()
    kernel.flush_and_close()


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
        self._run_count = 0
        self._is_closed = self._is_shutting_down = False
        context = contextvars.copy_context()
        self._module_reloader = ModuleReloader(Path.cwd())
        self._streams = StandardStreams(output)
        output.start()
        output.begin_run(RunContext({}))
        self._streams.install()
        self.shell = EraShell.instance(kernel=self, config=_config())
        sources = CellSources()
        self._signals = ProgramSignals(self._report_late_error)
        program_loop = ProgramLoop(self._signals)
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
        InputPatches(self._control_server, output, self.shell.publish).install()
        self._register_comm_handlers()
        excepthooks.install(self._streams.write_stderr)
        run_context.install()
        program_loop.install()
        self._signals.install()
        exit_patches.install(self.flush_and_close, stderr_fd)
        exec_patches.install(self.flush_and_close)

    def serve(self) -> None:
        """Answers requests until one asks for the end, whatever a program does meanwhile."""
        handlers = self._inspector.handlers | {"activity_request": self._activity}
        self._control_server.start(handlers, self._request_loop.put_control)
        self._send_on_iopub("status", {"execution_state": "starting"})
        fault_count = 0
        while not self._is_shutting_down:
            try:
                socket, parts = self._request_loop.next()
                self._dispatch(socket, parts)
                fault_count = 0
            except BaseException as error:  # of a message that makes no sense, or of a loop
                fault_count += 1
                if fault_count == MAX_FAULTS or isinstance(error, SocketsClosed):
                    raise
                self._log_fault(error)

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

    def _dispatch(self, socket: Socket, parts: Parts) -> None:
        identities, frames = self.session.feed_identities(parts)
        request = self.session.deserialize(frames)
        self._current_request = request
        self._shell_parent_ident.set(identities)
        kind = request["header"]["msg_type"]
        handler = self.shell_handlers.get(kind) or self.control_handlers.get(kind)
        self._send_on_iopub("status", {"execution_state": "busy"})
        if handler is not None:
            answer = handler(socket, identities, request)
            if answer is not None:
                _finish(answer)
        self._send_on_iopub("status", {"execution_state": "idle"}, request)

    def execute_request(self, stream: Socket, ident: Any, parent: dict[str, Any]) -> None:
        """Runs code. The reply says how the run ended, the fence that all its output was sent.

        Whatever fails in here, both are sent.
        """
        content, era = parent["content"], parent["metadata"].get("era") or {}
        self._run_count += 1
        run = RunContext(parent["header"], era.get("number", self._run_count), era.get("nonce"))
        run.stdin_client = ident if content.get("allow_stdin", False) else None
        try:
            reply = self._execute(run, content, era)
        except BaseException as error:
            reply = self._execute_reply(run, self._fault_result(error))
        finally:
            self._signals.activity = Activity.KERNEL
            if getpid() != self._pid:  # a forked child, in which something of ours failed
                exit_process(1)
        run.stdin_client = None
        self._output.finish_run(run)
        self.session.send(stream, "execute_reply", reply, parent, ident)

    def _execute(
        self, run: RunContext, content: dict[str, Any], era: dict[str, Any]
    ) -> dict[str, Any]:
        """Runs the code of a request; returns the reply."""
        if not content.get("silent", False):
            execute_input = {"code": content["code"], "execution_count": run.number}
            self._send_on_iopub("execute_input", execute_input)
        self._begin_run(run)
        with self._run_environment(era.get("env") or {}):
            result = self._cell_runner.run(run, content["code"])
            if era.get("ends"):
                self.end_program()
        self._attempt(self._module_reloader.remember_imports)
        reply = self._execute_reply(run, result)
        expressions = content.get("user_expressions")
        if expressions and result.exit_code == 0:
            self._signals.call(
                lambda: reply.update(user_expressions=self.shell.user_expressions(expressions))
            )
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

    @contextmanager
    def _run_environment(self, env: Mapping[str, str]) -> Iterator[None]:
        """Sets this run's variables; on exit they have their previous values again."""
        previous = {name: environ.get(name) for name in env}
        environ.update(env)
        try:
            yield
        finally:
            for name, value in previous.items():
                if value is None:
                    environ.pop(name, None)
                else:
                    environ[name] = value

    def _attempt(self, step: Callable[[], object]) -> None:
        """Takes a step of a run; one that fails, because of what a program did, is only logged."""
        error = self._signals.call(step)
        if error is not None:
            self._log_fault(error)

    def _fault_result(self, error: BaseException) -> CellResult:
        """Returns the end of a run in which a step of the kernel failed, and tells the user."""
        remark = f"The kernel failed in a step of its own: {tracebacks.describe_fault(error)}.\n"
        self._signals.call(lambda: self._streams.write_stderr(remark))
        return CellResult(1, fault=tracebacks.describe_fault(error))

    def _report_late_error(self, error: BaseException) -> None:
        """Prints what a signal handler raised after the program's end, as late output."""
        tracebacks.remove_kernel_frames(error)
        self._streams.write_stderr(tracebacks.format_exception(error))

    def _log_fault(self, error: BaseException) -> None:
        tracebacks.log_fault(self._stderr_fd, error)

    def _activity(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answers whether code of the program runs; called by the control thread."""
        return {"status": "ok", "is_program_running": self._request_loop.is_program_running}

    def _execute_reply(self, run: RunContext, result: CellResult) -> dict[str, Any]:
        era = {"exit_code": result.exit_code, "exception": result.exception, "fault": result.fault}
        reply: dict[str, Any] = {
            "status": "ok",
            "execution_count": run.number,
            "payload": [],
            "user_expressions": {},
            "era": era,
        }
        if result.exit_code == 0:
            return reply
        error = result.exception or {
            "name": "SystemExit",
            "value": str(result.exit_code),
            "traceback": [],
        }
        return {
            **reply,
            "status": "error",
            "ename": error["name"],
            "evalue": error["value"],
            "traceback": error["traceback"],
        }

    async def do_complete(self, *args: Any) -> dict[str, Any]:
        return super().do_complete(*args)

    async def do_inspect(self, *args: Any) -> dict[str, Any]:
        return super().do_inspect(*args)

    async def do_is_complete(self, *args: Any) -> dict[str, Any]:
        return super().do_is_complete(*args)

    async def do_history(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"status": "ok", "history": []}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        return {"status": "ok", "restart": restart}

    def shutdown_request(self, stream: Socket, ident: Any, parent: dict[str, Any]) -> None:
        """Ends the kernel after this reply, as a program ends."""
        content = self.do_shutdown(parent["content"].get("restart", False))
        self.session.send(stream, "shutdown_reply", content, parent, ident)
        self._send_on_iopub("shutdown_reply", content)
        self._is_shutting_down = True

    @property
    def kernel_info(self) -> dict[str, Any]:
        return {
            "protocol_version": "5.4",
            "implementation": "era",
            "implementation_version": "1",
            "language_info": self.language_info,
            "banner": f"Python {sys.version}",
            "help_links": [],
            "supported_features": [],
        }

    # ------------------------------------------------------------ for ipykernel's own code

    def get_parent(self, channel: str | None = None) -> dict[str, Any]:
        return self._current_request

    def _send_on_iopub(self, kind: str, content: Any, parent: Any = None) -> None:
        ident = f"kernel.{self.ident}.{kind}".encode()
        parent = parent or self._current_request
        self.session.send(self.iopub_socket, kind, content, parent=parent, ident=ident)

    def _register_comm_handlers(self) -> None:
        self.comm_manager = comm.get_comm_manager()
        for kind in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[kind] = getattr(self.comm_manager, kind)


def _finish(answer: Any) -> None:
    """Runs a handler of ipykernel, which is a coroutine that awaits nothing, to its end."""
    try:
        answer.send(None)
    except StopIteration:
        return
    answer.close()
    raise RuntimeError("a handler waits")


def _silent_logger() -> logging.Logger:
    """Returns a logger that stays silent however a program configures logging."""
    logger = logging.Logger("era")
    logger.disabled = True
    return logger


def _config() -> Config:
    """Returns IPython's settings, without a history, which would grow with each run."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.colors = "nocolor"
    return config

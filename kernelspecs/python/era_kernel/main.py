"""A Jupyter kernel for Python whose cells behave like programs of the plain interpreter.

    era_kernel.main:main(connection file)    in a fork of a warm interpreter
    python kernelspecs/python FILE           started by any Jupyter client

Requests arrive on sockets that the asyncio loop watches, and are answered one after the other. What
a run needs beside its code is in the request's metadata: `{"era": {"nonce", "number", "env"}}`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comm
from ipykernel.ipkernel import IPythonKernel
from ipykernel.jsonutil import json_clean
from jupyter_client.session import Session
from traitlets import Any as AnyTrait
from traitlets.config import Config

from era_kernel import early_binding, excepthooks, exit_patches, message_json, run_context
from era_kernel.cell_runner import CellResult, CellRunner
from era_kernel.comm_requests import COMM_MESSAGES, CommRequests
from era_kernel.control_thread import ControlServer
from era_kernel.history import History
from era_kernel.input_patches import InputPatches
from era_kernel.inspection import Inspector
from era_kernel.module_reload import ModuleReloader
from era_kernel.nested_loops import NestedLoops
from era_kernel.output_publisher import OutputPublisher
from era_kernel.run_context import RunContext
from era_kernel.shell import EraShell
from era_kernel.sigint import SigintHandler
from era_kernel.sockets import KernelSockets, Parts, RequestQueue, Socket
from era_kernel.standard_requests import (
    ABORTED_REPLY,
    NO_CODE_REPLY,
    STATIC_REQUESTS,
    AbortPolicy,
    StandardRequests,
)
from era_kernel.stdio import StandardStreams
from era_kernel.tracebacks import CellSources


def main(connection_file: str) -> None:
    """Serves as a kernel until a client asks for its end."""
    early_binding.end()
    # An interpreter reads this variable when it starts; a fork gets its environment later. Bytecode
    # files tell versions of a source apart by the second only.
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    connection = json.loads(Path(connection_file).read_bytes())
    session = Session(
        key=connection.get("key", "").encode(),
        signature_scheme=connection.get("signature_scheme", "hmac-sha256"),
        pack=message_json.pack,
        unpack=message_json.unpack,
        check_pid=False,  # a forked child sends nothing, and `os.getpid` may be a program's
    )
    sockets = KernelSockets(connection)
    output = OutputPublisher(session, sockets.iopub)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    kernel = EraKernel.instance(
        session=session,
        output=output,
        sockets=sockets,
        loops=NestedLoops(loop),
        stderr_fd=os.dup(2),
        stack_dump_file=connection.get("dump"),
    )
    kernel.serve()
    atexit._run_exitfuncs()  # what they print is still sent
    kernel.flush_and_close()


class EraKernel(IPythonKernel):
    """Answers a client's requests; completion, inspection and comms are ipykernel's."""

    debugger_class = AnyTrait()  # the real one would import 9 MB of modules

    def __init__(
        self,
        session: Session,
        output: OutputPublisher,
        sockets: KernelSockets,
        loops: NestedLoops,
        stderr_fd: int,
        stack_dump_file: str | None,
    ) -> None:
        # Skips IPythonKernel.__init__, which starts a debugger and another shell.
        super(IPythonKernel, self).__init__(
            session=session, iopub_socket=output, log=_silent_logger()
        )
        self._output, self._sockets = output, sockets
        self._loops, self._stderr_fd = loops, stderr_fd
        self._current_request: dict[str, Any] = {}
        self._run_count = self._unstored_count = 0
        self.history, self._abort_policy = History(), AbortPolicy()
        self._is_closed = self._is_shutting_down = False
        self._cell_context = contextvars.copy_context()
        self._module_reloader = ModuleReloader(Path.cwd())
        self._streams = StandardStreams(output)
        output.start()
        output.begin_run(RunContext({}))
        self._streams.install()
        self.shell = EraShell.instance(kernel=self, config=_config())
        sources = CellSources()
        sigint = SigintHandler()
        self._cell_runner = CellRunner(
            self.shell, self._streams, sigint, loops, self._cell_context, sources
        )
        self.comm_manager = manager = comm.get_comm_manager()
        self._standard_requests = StandardRequests(
            self.shell, manager, self.history, sigint.call_interruptible
        )
        self._comm_requests = CommRequests(manager, output, sigint.call_interruptible)
        self._control_server = ControlServer(session, sockets, stderr_fd)
        self._inspector = Inspector(self.shell.user_ns, sources, loops)
        if stack_dump_file is not None:
            self._inspector.enable_stack_dump(stack_dump_file)
        InputPatches(self._control_server, output, self.shell.publish).install()
        excepthooks.install(self._streams.write_stderr)
        run_context.install()
        loops.install()
        exit_patches.install(self.flush_and_close, stderr_fd)

    def serve(self) -> None:
        """Answers requests until one asks for the end, whatever a program does to the loop."""
        loop = self._loops.loop
        # Not among `asyncio.all_tasks()`: a program may cancel all tasks that it finds there.
        request_queue = RequestQueue(loop, self._sockets.shell, self._control_server)
        self._count_waiting = request_queue.count_waiting
        task = loop.create_task(self._serve_requests(request_queue), context=self._cell_context)
        asyncio.tasks._unregister_task(task)
        handlers = STATIC_REQUESTS | self._inspector.handlers
        self._control_server.start(handlers, request_queue.put_control, self._output)
        self._send_on_iopub("status", {"execution_state": "starting"})
        while not self._is_shutting_down:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # of a task that a program left behind
                continue

    def flush_and_close(self) -> None:
        """Sends all output that is left and closes the sockets, before the process ends."""
        if not self._is_closed:
            self._is_closed = True
            self._streams.flush()
            self._control_server.close()
            self._output.close()
            self._sockets.close()

    # ------------------------------------------------------------ requests

    async def _serve_requests(self, request_queue: RequestQueue) -> None:
        while not self._is_shutting_down:
            try:
                socket, parts = await request_queue.next()
                await self._dispatch(socket, parts)
            except (asyncio.CancelledError, KeyboardInterrupt):  # a program did this to the task
                continue
            except Exception:
                os.write(self._stderr_fd, traceback.format_exc().encode(errors="replace"))
        self._loops.loop.stop()

    async def _dispatch(self, socket: Socket, parts: Parts) -> None:
        identities, frames = self.session.feed_identities(parts)
        request = self.session.deserialize(frames)
        self._current_request = request
        self._shell_parent_ident.set(identities)
        kind = request["header"]["msg_type"]
        self._send_on_iopub("status", {"execution_state": "busy"})
        if socket is self._sockets.shell and self._abort_policy.is_aborted(kind):
            self.session.send(socket, "execute_reply", ABORTED_REPLY, request, identities)
        elif kind == "execute_request":
            await self.execute_request(socket, identities, request)
        elif kind == "shutdown_request":
            await self.shutdown_request(socket, identities, request)
        elif kind in COMM_MESSAGES:
            self._comm_requests.handle(kind, identities, request)
        else:
            content = self._standard_requests.answer(kind, request["content"])
            if content is not None:
                reply = kind.removesuffix("_request") + "_reply"
                self.session.send(socket, reply, json_clean(content), request, identities)
        self._send_on_iopub("status", {"execution_state": "idle"}, request)

    async def execute_request(self, stream: Socket, ident: Any, parent: dict[str, Any]) -> None:
        """Runs code. The reply says how the run ended, the fence that all its output was sent."""
        content = parent["content"]
        if not isinstance(content.get("code"), str):
            self.session.send(stream, "execute_reply", NO_CODE_REPLY, parent, ident)
            return
        era = parent["metadata"].get("era") or {}
        run = self._begin_run(parent, era)
        if not run.is_silent:
            execute_input = {"code": content["code"], "execution_count": run.number}
            self._send_on_iopub("execute_input", execute_input)
        run.stdin_client = ident if content.get("allow_stdin", False) else None
        with self._run_environment(run, era.get("env") or {}):
            result = await self._cell_runner.run(run, content["code"])
        run.stdin_client = None
        self._output.finish_run(run)
        reply = self._execute_reply(run, result, content.get("user_expressions") or {})
        if result.exit_code and not era:
            self._abort_policy.on_failure(content, self._count_waiting())
            if result.exception is None:  # an exit, of which nothing was told yet
                error = {key: reply[key] for key in ("ename", "evalue", "traceback")}
                self._send_on_iopub("error", error)
        self.session.send(stream, "execute_reply", json_clean(reply), parent, ident)

    def _begin_run(self, request: dict[str, Any], era: Mapping[str, Any]) -> RunContext:
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

    @contextmanager
    def _run_environment(self, run: RunContext, env: Mapping[str, str]) -> Iterator[None]:
        """Makes streams, modules and argv new, as for a program, and sets this run's variables.

        On exit the variables have their previous values again.
        """
        run_context.set_current(run)
        self._output.begin_run(run)
        self._streams.install()
        self._module_reloader.forget_changed()
        sys.argv = ["main.py"]
        previous = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            yield
        finally:
            for name, value in previous.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self._module_reloader.remember_imports()

    def _execute_reply(
        self, run: RunContext, result: CellResult, expressions: dict[str, str]
    ) -> dict[str, Any]:
        error = result.exception
        reply: dict[str, Any] = {
            "status": "ok",
            "execution_count": run.number,
            "payload": [],
            "user_expressions": {},
            "era": {"exit_code": result.exit_code, "exception": error},
        }
        if result.exit_code == 0:
            if expressions:
                reply["user_expressions"] = self._standard_requests.evaluate(expressions)
            return reply
        error_fields = error or {
            "name": "SystemExit",
            "value": str(result.exit_code),
            "traceback": [],
        }
        error_content = {
            "ename": error_fields["name"],
            "evalue": error_fields["value"],
            "traceback": error_fields["traceback"],
        }
        return {**reply, "status": "error", **error_content}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        return {"status": "ok", "restart": restart}

    async def shutdown_request(self, stream: Socket, ident: Any, parent: dict[str, Any]) -> None:
        """Ends the kernel after this reply, as a program ends."""
        content = self.do_shutdown(parent["content"].get("restart", False))
        self.session.send(stream, "shutdown_reply", content, parent, ident)
        self._send_on_iopub("shutdown_reply", content)
        self._is_shutting_down = True

    # ------------------------------------------------------------ for ipykernel's own code

    def get_parent(self, channel: str | None = None) -> dict[str, Any]:
        return self._current_request

    def _send_on_iopub(self, kind: str, content: Any, parent: Any = None) -> None:
        ident = f"kernel.{self.ident}.{kind}".encode()
        parent = parent or self._current_request
        self.session.send(self.iopub_socket, kind, content, parent=parent, ident=ident)


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


early_binding.bind_modules()  # once for all kernels that are forked later

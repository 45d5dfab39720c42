"""A Jupyter kernel for Python whose cells behave like programs of the plain interpreter.

    era_ipykernel:main(connection file)    in a fork of a warm interpreter
    python era_ipykernel.py FILE           started by any Jupyter client

Requests come by sockets that the asyncio loop watches, and are answered one after the other. All
that a run needs beside its code is in its metadata: `{"era": {"nonce", "number", "env"}}`.
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
from types import ModuleType
from typing import Any

import comm
import era_guards
import era_hooks
import era_runs
from era_control import Control
from era_input import Input
from era_insight import Insight
from era_interrupts import Interrupts
from era_loops import Loops
from era_modules import Modules
from era_output import Output
from era_program import Outcome, Program
from era_runs import Run
from era_shell import EraShell
from era_sockets import Inbox, Parts, Socket, Sockets
from era_streams import Streams
from era_traceback import Sources
from ipykernel.ipkernel import IPythonKernel
from ipykernel.jsonutil import json_clean
from jupyter_client.session import Session
from traitlets import Any as AnyTrait
from traitlets.config import Config


def main(connection_file: str) -> None:
    """Be a kernel until a client asks for its end."""
    # As the environment asks, which a fork was born too early to see. Bytecode tells versions of a
    # file apart by the second.
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    told = json.loads(Path(connection_file).read_bytes())
    session = Session(key=told["key"].encode(), signature_scheme=told["signature_scheme"])
    sockets = Sockets(told)
    output = Output(session, sockets.iopub)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    kernel = EraKernel.instance(
        session=session,
        output=output,
        sockets=sockets,
        loops=Loops(loop),
        words=os.dup(2),
        dump=told.get("dump"),
    )
    kernel.serve()
    atexit._run_exitfuncs()  # what they print is still to be heard
    kernel.farewell()


class EraKernel(IPythonKernel):
    """Answers requests. Of ipykernel's class it takes completion, inspection and comms."""

    debugger_class = AnyTrait()  # the real one would be imported, with 9 MB that nobody needs

    def __init__(
        self,
        session: Session,
        output: Output,
        sockets: Sockets,
        loops: Loops,
        words: int,
        dump: str | None,
    ) -> None:
        # Past IPythonKernel's own, which starts a debugger and another shell.
        super(IPythonKernel, self).__init__(
            session=session, iopub_socket=output, log=_silent_logger()
        )
        self._output, self._sockets, self._loops, self._words = output, sockets, loops, words
        self._parent: dict[str, Any] = {}
        self._count = 0
        self._closed = self._stopped = False
        self._context = contextvars.copy_context()
        self._modules = Modules(Path.cwd())
        self._streams = Streams(output)
        output.start()
        output.begin(Run({}))
        self._streams.install()
        self.shell = EraShell.instance(kernel=self, config=_config())
        sources = Sources()
        self._program = Program(
            self.shell, self._streams, Interrupts(), loops, self._context, sources
        )
        self._control = Control(session, sockets, words)
        self._insight = Insight(self.shell.user_ns, sources, loops)
        if dump is not None:
            self._insight.dump_into(dump)
        Input(self._control, output, self.shell.publish).install()
        self._listen_to_comms()
        era_hooks.install(self._streams.complain)
        era_runs.install()
        loops.install()
        era_guards.install(self.farewell, words)

    def serve(self) -> None:
        """Answer requests until one asks for the end, whatever a program does to the loop."""
        loop = self._loops.loop
        # Neither among `asyncio.all_tasks()` of a program, which may cancel them all.
        inbox = Inbox(loop, self._sockets.shell, self._control)
        task = loop.create_task(self._serve(inbox), context=self._context)
        asyncio.tasks._unregister_task(task)
        self._control.start(self._insight.answers, inbox.put)
        self._send("status", {"execution_state": "starting"})
        while not self._stopped:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # of a task that a program left behind
                continue

    def farewell(self) -> None:
        """Send what there is: the process ends."""
        if not self._closed:
            self._closed = True
            self._streams.flush()
            self._control.close()
            self._output.close()
            self._sockets.close()

    # ------------------------------------------------------------ requests

    async def _serve(self, inbox: Inbox) -> None:
        while not self._stopped:
            try:
                socket, parts = await inbox.next()
                await self._answer(socket, parts)
            except (asyncio.CancelledError, KeyboardInterrupt):  # a program did it to this task
                continue
            except Exception:
                os.write(self._words, traceback.format_exc().encode(errors="replace"))
        self._loops.loop.stop()

    async def _answer(self, socket: Socket, parts: Parts) -> None:
        identities, frames = self.session.feed_identities(parts)
        request = self.session.deserialize(frames)
        self._parent = request
        self._shell_parent_ident.set(identities)
        kind = request["header"]["msg_type"]
        handler = self.shell_handlers.get(kind) or self.control_handlers.get(kind)
        self._send("status", {"execution_state": "busy"})
        if handler is not None:
            answer = handler(socket, identities, request)
            if answer is not None:
                await answer
        self._send("status", {"execution_state": "idle"}, request)

    async def execute_request(self, stream: Socket, ident: Any, parent: dict[str, Any]) -> None:
        """Run code: the reply tells how it ended, the fence that all of its output is out."""
        content = parent["content"]
        era = parent["metadata"].get("era") or {}
        self._count += 1
        run = Run(parent["header"], era.get("number", self._count), era.get("nonce"))
        silent = content.get("silent", False)
        if not silent:
            told = {"code": content["code"], "execution_count": run.number}
            self._send("execute_input", told)
        run.client = ident if content.get("allow_stdin", False) else None
        with self._prepared(run, era.get("env") or {}):
            outcome = await self._program.run(run, content["code"])
        run.client = None
        self._output.finish(run)
        reply = self._reply(run, outcome, content.get("user_expressions") or {})
        self.session.send(stream, "execute_reply", json_clean(reply), parent, ident)

    @contextmanager
    def _prepared(self, run: Run, env: Mapping[str, str]) -> Iterator[None]:
        """What is as at the start of a program, and the variables of this run only."""
        era_runs.enter(run)
        self._output.begin(run)
        self._streams.install()
        self._modules.refresh()
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
            self._modules.note()

    def _reply(self, run: Run, outcome: Outcome, expressions: dict[str, str]) -> dict[str, Any]:
        error = outcome.exception
        reply: dict[str, Any] = {
            "status": "ok",
            "execution_count": run.number,
            "payload": [],
            "user_expressions": {},
            "era": {"exit_code": outcome.exit_code, "exception": error},
        }
        if outcome.exit_code == 0:
            if expressions:
                reply["user_expressions"] = self.shell.user_expressions(expressions)
            return reply
        named = error or {"name": "SystemExit", "value": str(outcome.exit_code), "traceback": []}
        told = {"ename": named["name"], "evalue": named["value"], "traceback": named["traceback"]}
        return {**reply, "status": "error", **told}

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

    async def shutdown_request(self, stream: Socket, ident: Any, parent: dict[str, Any]) -> None:
        """End after this answer, as a program ends."""
        content = self.do_shutdown(parent["content"].get("restart", False))
        self.session.send(stream, "shutdown_reply", content, parent, ident)
        self._send("shutdown_reply", content)
        self._stopped = True

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
        return self._parent

    def _send(self, kind: str, content: Any, parent: Any = None) -> None:
        ident = f"kernel.{self.ident}.{kind}".encode()
        parent = parent or self._parent
        self.session.send(self.iopub_socket, kind, content, parent=parent, ident=ident)

    def _listen_to_comms(self) -> None:
        self.comm_manager = comm.get_comm_manager()
        for kind in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[kind] = getattr(self.comm_manager, kind)


def _silent_logger() -> logging.Logger:
    """One that no configuration of a program's logging brings to speak."""
    logger = logging.Logger("era")
    logger.disabled = True
    return logger


def _config() -> Config:
    """IPython without a history: it would grow for as long as the session lives."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.colors = "nocolor"
    return config


if __name__ == "__main__":
    import era_ipykernel

    sys.path[0] = ""  # not the folder of this file
    for name, value in tuple(os.environ.items()):
        if value.startswith(("{cache}", "{packages}")):  # that only our server fills in
            del os.environ[name]
    sys.modules["__main__"] = ModuleType("__main__")
    era_ipykernel.main(sys.argv[-1])

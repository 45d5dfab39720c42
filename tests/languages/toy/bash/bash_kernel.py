"""A kernel for bash: what this server asks of a kernel over Jupyter's wire, and little else.

Each run is a bash of its own, so that it ends as any program in bash does. It begins with the
variables, functions, options and directory that the run before it has left (`prologue.sh`).
Everything happens in one loop: requests, and the output of the run and of earlier ones.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

FENCE = "application/vnd.era.fence+json"
PIPE_SIZE = 1024 * 1024  # bytes that a pipe holds at most
INFO = {
    "status": "ok",
    "protocol_version": "5.3",
    "implementation": "toy",
    "implementation_version": "1",
    "language_info": {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"},
    "banner": "",
}
# Variables that bash makes for itself.
OWN_VARIABLES = re.compile(
    r"era_kernel_\w*|BASH\w*|COMP_\w*|DIRSTACK|EPOCH\w*|EUID|FUNCNAME|GROUPS|HISTCMD|LINENO|OLDPWD"
    r"|PIPESTATUS|PPID|PWD|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID|_"
)
DECLARATION = re.compile(r"declare -\S+ (\w+)")


class Output:
    """The read end of a pipe into which a run writes, and perhaps its children after its end."""

    def __init__(self, name: str, request: dict[str, Any]) -> None:
        self.name, self.request = name, request
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.is_at_end = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> str:
        """Returns what is in the pipe now."""
        try:
            data = os.read(self.read_end, PIPE_SIZE)
        except BlockingIOError:
            return ""
        self.is_at_end = not data
        return self._decoder.decode(data, final=self.is_at_end)


class SavedState:
    """What the next run begins with: a statement of bash for each variable, and others."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "state"
        self._variables: dict[str, str] = {}
        self._others: list[str] = []

    def write(self, env: dict[str, str]) -> None:
        """Writes it for the next run, in which the variables of `env` have their values."""
        lines = [line for name, line in self._variables.items() if name not in env]
        self.path.with_suffix(".sh").write_text("\n".join([*lines, *self._others]), "utf-8")

    def read(self, env: dict[str, str]) -> None:
        """Takes what a run has left; what it has not written to the end does not count."""
        file = self.path.with_suffix(".new")
        try:
            records = file.read_bytes().decode(errors="surrogateescape").split("\0")
            file.unlink()
        except OSError:
            return
        if not records[-1] and "set +o" in records[-2]:
            found = [(DECLARATION.match(line), line) for line in records[:-4]]
            kept = {name: line for name, line in self._variables.items() if name in env}
            self._variables = kept | {
                match[1]: line
                for match, line in found
                if match and match[1] not in env and not OWN_VARIABLES.fullmatch(match[1])
            }
            self._others = records[-4:-1]


class Run:
    """A bash that runs the code of one request."""

    def __init__(self, request: dict[str, Any], ident: list[bytes], state: SavedState) -> None:
        self.request, self.ident = request, ident
        era = request["metadata"].get("era", {})
        self.nonce, self.env = era.get("nonce", ""), era.get("env", {})
        self.outputs = [Output(name, request) for name in ("stdout", "stderr")]
        state.write(self.env)
        writers = [output.write_end for output in self.outputs]
        try:
            self.bash = subprocess.Popen(
                ["bash", "-c", request["content"]["code"]],
                stdin=subprocess.DEVNULL,
                stdout=writers[0],
                stderr=writers[1],
                env={**os.environ, **self.env, "ERA_KERNEL_STATE": str(state.path)},
            )
        finally:
            for end in writers:
                os.close(end)
        self.ended = os.pidfd_open(self.bash.pid)


class BashKernel:
    """Answers requests one after the other, and those on control also during a run."""

    def __init__(self, connection: dict[str, Any], directory: Path) -> None:
        self._session = Session(key=connection["key"].encode(), digest_history_size=0)
        self._context: zmq.Context[Any] = zmq.Context()
        self._connection = connection
        self._shell = self._bind("shell", zmq.ROUTER)
        self._control = self._bind("control", zmq.ROUTER)
        self._iopub = self._bind("iopub", zmq.PUB)
        self._stdin = self._bind("stdin", zmq.ROUTER)
        self._state = SavedState(directory)
        self._run: Run | None = None
        self._outputs: dict[int, Output] = {}  # those that may have more, by their descriptors
        self._count = 0
        self._is_stopped = False

    def serve(self) -> None:
        """Serves requests until one of them ends the kernel."""
        self._publish("status", {"execution_state": "starting"}, {})
        while not self._is_stopped:
            poller = zmq.Poller()
            poller.register(self._control, zmq.POLLIN)
            for descriptor in self._outputs:
                poller.register(descriptor, zmq.POLLIN)
            waiting = self._shell if self._run is None else self._run.ended
            poller.register(waiting, zmq.POLLIN)
            ready = dict(poller.poll())
            for descriptor in self._outputs.keys() & ready.keys():
                self._pass_on(self._outputs[descriptor])
            if self._control in ready:
                self._answer(self._control)
            if waiting in ready:
                if self._run is None:
                    self._answer(self._shell)
                else:
                    self._finish(self._run)

    def _bind(self, channel: str, kind: int) -> Any:
        socket = self._context.socket(kind)
        socket.sndhwm = 0  # nothing is dropped
        ip, port = self._connection["ip"], self._connection[f"{channel}_port"]
        separator = "-" if self._connection["transport"] == "ipc" else ":"
        socket.bind(f"{self._connection['transport']}://{ip}{separator}{port}")
        return socket

    def _publish(self, kind: str, content: dict[str, Any], request: dict[str, Any]) -> None:
        self._session.send(self._iopub, kind, content, parent=request)

    def _answer(self, socket: Any) -> None:
        ident, request = self._session.recv(socket)
        kind = request["msg_type"]
        self._publish("status", {"execution_state": "busy"}, request)
        if kind == "execute_request":
            self._start(request, ident)
            return
        content: dict[str, Any] = {"status": "ok"}
        if kind == "kernel_info_request":
            content = INFO
        elif kind == "shutdown_request":
            self._is_stopped = True
        elif kind == "interrupt_request":
            os.killpg(0, signal.SIGINT)
        self._session.send(
            socket, kind.replace("request", "reply"), content, parent=request, ident=ident
        )
        self._publish("status", {"execution_state": "idle"}, request)

    def _start(self, request: dict[str, Any], ident: list[bytes]) -> None:
        self._count += 1
        try:
            self._run = Run(request, ident, self._state)
        except OSError as error:  # the code is too long for an argument
            text = f"bash: {error.strerror}\n"
            self._publish("stream", {"name": "stderr", "text": text}, request)
            self._reply(request, ident, request["metadata"].get("era", {}).get("nonce", ""), 126)
        else:
            self._outputs |= {output.read_end: output for output in self._run.outputs}

    def _pass_on(self, output: Output) -> None:
        """Publishes what is in a pipe now."""
        if text := output.read():
            self._publish("stream", {"name": output.name, "text": text}, output.request)
        if output.is_at_end:
            os.close(output.read_end)
            del self._outputs[output.read_end]

    def _finish(self, run: Run) -> None:
        code = run.bash.wait()
        os.close(run.ended)
        self._run = None
        for output in run.outputs:
            if output.read_end in self._outputs:
                self._pass_on(output)
        self._state.read(run.env)
        if (
            code < 0 and code != -signal.SIGINT
        ):  # what ends the interpreter ends the session's state
            self._die(-code)
        self._reply(run.request, run.ident, run.nonce, 128 - code if code < 0 else code)

    def _reply(self, request: dict[str, Any], ident: list[bytes], nonce: str, code: int) -> None:
        content = {
            "status": "error" if code else "ok",
            "ename": "",
            "evalue": "",
            "traceback": [],
            "execution_count": self._count,
            "era": {"exit_code": code, "exception": None},
        }
        self._publish("display_data", {"data": {FENCE: {"nonce": nonce}}, "metadata": {}}, request)
        self._session.send(self._shell, "execute_reply", content, parent=request, ident=ident)
        self._publish("status", {"execution_state": "idle"}, request)

    def _die(self, number: int) -> None:
        """Ends this process as the run has ended."""
        self._context.destroy(linger=1000)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def main() -> None:
    """Serves the kernel that the connection file describes."""
    signal.signal(signal.SIGINT, lambda *_: None)  # it is for the bash of the run
    connection = json.loads(Path(sys.argv[1]).read_bytes())
    with tempfile.TemporaryDirectory(prefix="bash-") as directory:
        BashKernel(connection, Path(directory)).serve()


if __name__ == "__main__":
    main()

"""Answers a client's requests, in one loop with the output of the run and of earlier ones.

A run is a process of its own (`run.py`), so requests on control are answered meanwhile, and those
on shell wait for its end. What a run needs beside its code is in the request's metadata:
`{"era": {"nonce", "number", "env"}}`.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import zmq
from code_requests import CodeRequests
from endings import describe_signal, exit_code, find_exception
from era_kernel.history import History
from era_kernel.kernel_sockets import KernelSockets
from era_kernel.raw_sockets import has_message, receive_parts
from input_requests import InputRequests
from output import LatePipes, OutputPipe
from run import Run
from variable_list import read_variables
from wire import Content, Message, Wire

FENCE = "application/vnd.era.fence+json"
KILL_SECONDS = 1.2  # from the second interrupt of a program to its end by SIGKILL


class GoKernel:
    """Serves one connection until a client asks for its end."""

    def __init__(self, connection: Mapping[str, Any], tools: Mapping[str, str]) -> None:
        """Takes where the tools lie: `gorun`, `std` and `version`."""
        self._sockets = KernelSockets(connection)
        self._wire = Wire(connection.get("key", "").encode())
        self._directory = Path(tempfile.mkdtemp(prefix="go-"))
        self._state = self._directory / "state"
        self._state.mkdir()
        self._tools = tools
        self._history = History()
        self._run: Run | None = None
        self._late = LatePipes()
        self._waiting: deque[Message] = deque()  # requests on shell
        self._doomed = 0  # of which so many are aborted, if they are to run code
        self._count = 0
        self._kill_at: float | None = None  # when the run is killed
        self._is_stopped = False
        self._code_requests = CodeRequests(tools, self._state)
        self._input = InputRequests()

    # ------------------------------------------------------------ the loop

    def serve(self) -> None:
        """Answers requests until one asks for the end."""
        self._publish("status", {"execution_state": "starting"}, {})
        while not self._is_stopped:
            ready = self._poll()
            self._welcome_subscribers()
            self._receive()
            self._pass_on_output(ready)
            if self._run is not None:
                self._look_after(self._run, ready)
            elif self._waiting:
                self._answer_shell(self._waiting.popleft())
        self._end()

    def _poll(self) -> dict[Any, int]:
        poller = zmq.Poller()
        for channel in ("shell", "control", "stdin", "iopub"):
            poller.register(getattr(self._sockets, channel), zmq.POLLIN)
        for descriptor in self._late.descriptors():
            poller.register(descriptor, zmq.POLLIN)
        run = self._run
        if run is not None:
            poller.register(run.ended_fd, zmq.POLLIN)
            assert run.messages is not None
            if run.messages.is_open:
                poller.register(run.messages.fileno(), zmq.POLLIN)
            if run.unwritten_input:
                poller.register(run.stdin, zmq.POLLOUT)
            for pipe in (run.stdout, run.stderr):
                if not pipe.is_at_end:
                    poller.register(pipe.read_end, zmq.POLLIN)
        timeout = self._seconds_to_wait()
        return dict(poller.poll(None if timeout is None else max(0, round(timeout * 1000 + 0.5))))

    def _seconds_to_wait(self) -> float | None:
        if self._waiting and self._run is None:
            return 0.0
        seconds: list[float | None] = []
        if not self._late.is_empty():
            seconds.append(self._late.seconds_until_ready() or None)
        if self._run is not None:
            pipes = (self._run.stdout, self._run.stderr)
            seconds += [pipe.seconds_until_due() for pipe in pipes]
            seconds.append(self._input.seconds_until_look(self._run))
        if self._kill_at is not None:
            seconds.append(max(0.0, self._kill_at - monotonic()))
        return min((one for one in seconds if one is not None), default=None)

    def _welcome_subscribers(self) -> None:
        while has_message(self._sockets.iopub):
            topic = receive_parts(self._sockets.iopub)[0]
            if topic[:1] == b"\1":
                self._publish("iopub_welcome", {"subscription": topic[1:].decode()}, {})

    def _receive(self) -> None:
        """Takes all that has come; answers what is on control and stdin."""
        for channel, take in (
            ("shell", self._waiting.append),
            ("control", self._answer_control),
            ("stdin", self._on_stdin),
        ):
            socket = getattr(self._sockets, channel)
            while has_message(socket):
                try:
                    take(self._wire.read(receive_parts(socket)))
                except (ValueError, KeyError, TypeError):
                    continue  # a message that makes no sense

    # ------------------------------------------------------------ requests

    def _answer_control(self, request: Message) -> None:
        kind = request["kind"]
        control = self._sockets.control
        if kind == "input_reply":
            self._reply(control, request, self._input.on_reply(request["content"], self._run))
        elif kind == "activity_request":
            is_running = self._run is not None
            self._reply(control, request, {"status": "ok", "is_program_running": is_running})
        elif kind == "variables_request":
            self._reply(control, request, read_variables(self._state))
        else:
            self._answer(control, request)

    def _on_stdin(self, message: Message) -> None:
        if message["kind"] == "input_reply":
            self._input.on_stdin_reply(message["content"], self._run)

    def _answer_shell(self, request: Message) -> None:
        is_aborted, self._doomed = self._doomed > 0, max(0, self._doomed - 1)
        if request["kind"] != "execute_request":
            self._answer(self._sockets.shell, request)
            return
        self._publish("status", {"execution_state": "busy"}, request["header"])
        if is_aborted:
            self._finish_request(request, {"status": "aborted"})
        elif not isinstance(request["content"].get("code"), str):
            error = {"ename": "TypeError", "evalue": "the code of a run is a string"}
            self._finish_request(request, {"status": "error", **error, "traceback": []})
        else:
            self._start(request)

    def _answer(self, socket: Any, request: Message) -> None:
        """Answers a request that runs nothing."""
        self._publish("status", {"execution_state": "busy"}, request["header"])
        try:
            reply = self._content_of_reply(request)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # content of no sense
            told = {"ename": type(error).__name__, "evalue": str(error), "traceback": []}
            reply = {"status": "error", **told}
        if reply is not None:
            self._reply(socket, request, reply)
        self._publish("status", {"execution_state": "idle"}, request["header"])

    def _content_of_reply(self, request: Message) -> Content | None:
        """Does what a request asks for; returns what it is answered, None for nothing."""
        kind, content = request["kind"], request["content"]
        if kind == "history_request":
            return self._history.answer(content)
        if kind == "interrupt_request":
            self._interrupt()
            return {"status": "ok"}
        if kind == "shutdown_request":
            self._is_stopped = True
            return {"status": "ok", "restart": bool(content.get("restart", False))}
        if kind == "comm_open":
            closed = {"comm_id": content["comm_id"], "data": {}}
            self._publish("comm_close", closed, request["header"])
        if not kind.endswith("_request"):
            return None
        return self._code_requests.answer(kind, content)

    def _interrupt(self) -> None:
        """Interrupts the program; the second time it has a second left to end by itself."""
        run = self._run
        if run is None:
            return
        run.interrupt_count += 1
        run.signal(signal.SIGINT)
        if run.interrupt_count == 2:
            self._kill_at = monotonic() + KILL_SECONDS

    # ------------------------------------------------------------ runs

    def _start(self, request: Message) -> None:
        content, era = request["content"], request["metadata"].get("era") or {}
        is_silent = bool(content.get("silent", False))
        is_stored = bool(content.get("store_history", True)) and not is_silent
        self._count += is_stored
        number = int(era.get("number", self._count))
        if is_stored:
            self._history.add(number, content["code"])
        if not is_silent:
            execute_input = {"code": content["code"], "execution_count": number}
            self._publish("execute_input", execute_input, request["header"])
        try:
            run = Run(request, number, self._command(number), self._directory)
        except OSError as error:  # no descriptor is left, or no room
            self._refuse(request, number, f"the program could not be started: {error}\n")
            return
        if not content["code"].strip():
            self._finish(run, 0)
            return
        has_input = self._input.begin(request)
        try:
            run.start(os.environ, has_input=has_input)
        except (OSError, ValueError) as error:
            run.refusal = f"the program could not be started: {error}\n"
            self._finish(run, 1)
        else:
            self._run = run

    def _command(self, number: int) -> list[str]:
        """Returns what builds a program and becomes it."""
        directories = {"std": self._tools["std"], "state": str(self._state)}
        directories["built"] = str(self._directory / "built")
        options = [part for name, path in directories.items() for part in (f"-{name}", path)]
        return [self._tools["gorun"], *options, "-name", f"cell{number}.go"]

    def _refuse(self, request: Message, number: int, text: str) -> None:
        """Ends a run that could not even begin."""
        self._publish("stream", {"name": "stderr", "text": text}, request["header"])
        self._send_fence(request)
        self._finish_request(request, _execute_reply(number, 1, None))

    def _send_fence(self, request: Message) -> None:
        nonce = (request["metadata"].get("era") or {}).get("nonce")
        if nonce is not None:
            fence = {"data": {FENCE: {"nonce": nonce}}, "metadata": {}, "transient": {}}
            self._publish("display_data", fence, request["header"])

    def _look_after(self, run: Run, ready: Mapping[Any, int]) -> None:
        """Passes on what a program sends, asks for the input that it wants, and notes its end."""
        assert run.messages is not None
        if run.messages.is_open and run.messages.fileno() in ready:
            self._take_messages(run)
        if run.stdin in ready:
            run.pass_on_input()
        if self._kill_at is not None and monotonic() >= self._kill_at:
            run.signal(signal.SIGKILL)
            self._kill_at = None
        if run.ended_fd in ready:
            status = run.wait()
            self._take_messages(run)
            self._finish(run, status)
        elif self._input.wants_line(run):
            self._flush(run)
            self._ask(run)

    def _ask(self, run: Run) -> None:
        content = {"prompt": run.stdout.unfinished_line(), "password": False}
        if run.is_of_server:
            self._publish("input_request", self._input.ask(content), run.request["header"])
        else:
            self._input.ask(content)
            parts = run.request["identities"]
            self._wire.send(
                self._sockets.stdin, "input_request", content, run.request["header"], parts
            )

    def _take_messages(self, run: Run) -> None:
        assert run.messages is not None
        for message in run.messages.read():
            kind, content = message["kind"], message["content"]
            self._flush(run)
            if kind == "refused" and isinstance(content, str):
                run.refusal = content
            elif isinstance(content, dict) and kind in PUBLISHED:
                self._show(run, kind, content)
            run.messages.acknowledge()

    def _show(self, run: Run, kind: str, content: Content) -> None:
        """Publishes what a program displays, or the value of its last expression."""
        if kind == "execute_result":
            if run.request["content"].get("silent", False):
                return
            content = {**content, "execution_count": run.number}
            data = content.get("data")
            if isinstance(data, dict):
                self._history.set_output(run.number, data.get("text/plain"))
        self._publish(kind, content, run.request["header"])

    def _flush(self, run: Run) -> None:
        """Publishes all that a program has written until now."""
        for pipe in (run.stdout, run.stderr):
            pipe.read_all()
            self._send_texts(pipe, pipe.take_text())

    def _pass_on_output(self, ready: Mapping[Any, int]) -> None:
        for descriptor in self._late.descriptors():
            if descriptor in ready:
                self._send_texts(*self._late.read(descriptor))
        for pipe in (self._run.stdout, self._run.stderr) if self._run is not None else ():
            if pipe.read_end in ready and not pipe.is_at_end:
                pipe.read()
            if pipe.seconds_until_due() == 0:
                self._send_texts(pipe, pipe.take_text())

    def _send_texts(self, pipe: OutputPipe, texts: list[str]) -> None:
        for text in texts:
            self._publish("stream", {"name": pipe.name, "text": text}, pipe.parent)

    def _finish(self, run: Run, status: int) -> None:
        """Sends the rest of the output, the fence behind it, and how the run has ended."""
        self._run = self._kill_at = None
        for pipe in (run.stdout, run.stderr):
            pipe.read_all()
            self._send_texts(pipe, pipe.take_text(is_final=True))
            self._late.add(pipe)
        if run.ended_fd < 0:
            run.stdout.close_write_end()
            run.stderr.close_write_end()
        told = run.refusal if run.is_of_server else None
        if told := told or describe_signal(status):
            self._publish("stream", {"name": "stderr", "text": told}, run.request["header"])
        exception = find_exception(status, run.refusal, run.stderr.tail)
        reply = _execute_reply(run.number, exit_code(status), exception)
        if not run.is_of_server and reply["status"] == "error":
            self._on_failure(run, reply)
        self._send_fence(run.request)
        run.close()
        self._finish_request(run.request, reply)

    def _on_failure(self, run: Run, reply: Content) -> None:
        """Tells a client of plain Jupyter; the runs that wait already are not wanted then."""
        fields = {key: reply[key] for key in ("ename", "evalue", "traceback")}
        self._publish("error", fields, run.request["header"])
        if run.request["content"].get("stop_on_error", True):
            self._receive()
            self._doomed = len(self._waiting)

    # ------------------------------------------------------------ sending

    def _finish_request(self, request: Message, reply: Content) -> None:
        self._reply(self._sockets.shell, request, reply)
        self._publish("status", {"execution_state": "idle"}, request["header"])

    def _reply(self, socket: Any, request: Message, content: Content) -> None:
        kind = request["kind"].removesuffix("_request").removesuffix("_reply")
        self._wire.send(socket, f"{kind}_reply", content, request["header"], request["identities"])

    def _publish(self, kind: str, content: Content, parent: Message) -> None:
        topic = [f"kernel.{kind}".encode()]
        self._wire.send(self._sockets.iopub, kind, content, parent, topic)

    def _end(self) -> None:
        if self._run is not None:
            self._run.signal(signal.SIGKILL)
        self._sockets.close()
        shutil.rmtree(self._directory, ignore_errors=True)


PUBLISHED = ("display_data", "update_display_data", "clear_output", "execute_result")


def _execute_reply(number: int, code: int, exception: Content | None) -> Content:
    reply: Content = {
        "status": "ok",
        "execution_count": number,
        "payload": [],
        "user_expressions": {},
        "era": {"exit_code": code, "exception": exception},
    }
    if not code:
        return reply
    told = exception or {"name": "exit status", "value": str(code), "traceback": []}
    fields = {"ename": told["name"], "evalue": told["value"], "traceback": told["traceback"]}
    return {**reply, "status": "error", **fields}

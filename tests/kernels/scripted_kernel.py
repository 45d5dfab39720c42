"""Runs a kernel of a few lines in a thread, which speaks the wire protocol as a test says."""

from __future__ import annotations

import asyncio
import socket as sockets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

from era_kernels.kernels.active_run import KernelTimeouts
from era_kernels.kernels.kernel import InterruptMode, Kernel
from era_kernels.kernels.kernel_ports import KernelPorts
from era_kernels.kernels.message_events import FENCE_MIME_TYPE
from era_kernels.kernels.wire_protocol import ConnectionInfo, Transport
from era_kernels.models import EndReason, ExecutionEnd, ExitInfo, KernelRequest, Network, Output

JupyterMessage = dict[str, Any]
Script = Callable[["ScriptedKernel", JupyterMessage], None]

SHORT_TIMEOUTS = KernelTimeouts(
    second_interrupt=0.1, interrupt_reply=0.05, kill=0.3, run_end=0.3, max_drain=1.0
)


class ScriptedKernel:
    """Answers kernel_info by itself; each execute_request is handed to `script`."""

    def __init__(self, connection: ConnectionInfo, script: Script) -> None:
        self.script = script
        self.request_types: list[str] = []  # the types of all requests, in order
        self.requests: list[JupyterMessage] = []
        self.on_control: Script = lambda kernel, request: None  # it answers nothing
        self._is_stopped = False
        self._session = Session(key=connection.key.encode(), digest_history_size=0)
        self._context: zmq.Context[Any] = zmq.Context()
        self.shell = self._bind(zmq.ROUTER, connection.address("shell"))
        self.control = self._bind(zmq.ROUTER, connection.address("control"))
        self.iopub = self._bind(zmq.PUB, connection.address("iopub"))
        self.stdin = self._bind(zmq.ROUTER, connection.address("stdin"))
        self._thread = threading.Thread(target=self._serve)

    @contextmanager
    def serving(self) -> Iterator[ScriptedKernel]:
        self._thread.start()
        try:
            yield self
        finally:
            self._is_stopped = True
            self._thread.join()
            self._context.destroy(linger=0)

    # what scripts send

    def publish_stream(self, request: JupyterMessage, text: str, name: str = "stdout") -> None:
        self.publish("stream", {"name": name, "text": text}, request)

    def publish_fence(self, request: JupyterMessage, nonce: str | None = None) -> None:
        own = request["metadata"]["era"]["nonce"]
        self.publish("display_data", {"data": {FENCE_MIME_TYPE: {"nonce": nonce or own}}}, request)

    def send_reply(self, request: JupyterMessage, exit_code: object = 0, **era: object) -> None:
        content = {"status": "ok", "era": {"exit_code": exit_code, "exception": None, **era}}
        self.send_reply_content(request, content)

    def send_reply_content(self, request: JupyterMessage, content: JupyterMessage) -> None:
        self._session.send(
            self.shell, "execute_reply", content, parent=request, ident=request["ident"]
        )

    def publish_idle(self, request: JupyterMessage) -> None:
        self.publish("status", {"execution_state": "idle"}, request)

    def finish_run(self, request: JupyterMessage, exit_code: object = 0) -> None:
        """Ends a run as a kernel should."""
        self.publish_fence(request)
        self.send_reply(request, exit_code)

    def reply_on_control(
        self, request: JupyterMessage, content: JupyterMessage, msg_type: str = "reply"
    ) -> None:
        """Answers a request that came by control."""
        self._session.send(self.control, msg_type, content, parent=request, ident=request["ident"])

    def publish(
        self, msg_type: str, content: JupyterMessage, parent: JupyterMessage | None
    ) -> None:
        self._session.send(self.iopub, msg_type, content, parent=parent)

    def publish_raw(self, parts: list[bytes], is_signed: bool = True) -> None:
        """Publishes header, parent, metadata and content as they are; signed if `is_signed`."""
        signature = self._session.sign(parts) if is_signed else b"0" * 64
        self.iopub.send_multipart([b"topic", b"<IDS|MSG>", signature, *parts])

    # the machinery

    def _bind(self, socket_type: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(socket_type)
        socket.set(zmq.SNDHWM, 0)
        socket.bind(address)
        return socket

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self.shell, zmq.POLLIN)
        poller.register(self.control, zmq.POLLIN)
        while not self._is_stopped:
            for socket, _ in poller.poll(10):
                self._handle(socket)

    def _handle(self, socket: zmq.Socket[bytes]) -> None:
        ident, message = self._session.recv(socket)
        assert message is not None
        message["ident"] = ident
        self.request_types.append(message["msg_type"])
        if message["msg_type"] == "kernel_info_request":
            self.publish("status", {"execution_state": "idle"}, message)
            self._session.send(socket, "kernel_info_reply", {}, parent=message, ident=ident)
        elif message["msg_type"] == "execute_request":
            self.requests.append(message)
            self.script(self, message)
        elif socket is self.control:
            self.on_control(self, message)


class FakeMachineHandle:
    """Stands for a machine: records signals, and ends by `end`."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
        self.signals: list[int] = []
        self.stderr = ""

    async def signal(self, number: int) -> None:
        self.signals.append(number)

    async def aclose(self, reason: str | None = None) -> None:
        self.end(ExitInfo(reason=reason or EndReason.STOPPED))

    def take_stderr(self) -> str:
        stderr, self.stderr = self.stderr, ""
        return stderr

    def end(self, exit_info: ExitInfo) -> None:
        if not self.ended.done():
            self.ended.set_result(exit_info)


class KernelHarness:
    """Holds a scripted kernel and a Kernel that is connected to it."""

    def __init__(
        self, kernel: Kernel, scripted: ScriptedKernel, machine: FakeMachineHandle
    ) -> None:
        self.kernel = kernel
        self.scripted = scripted
        self.machine = machine
        self.late_output: list[Output] = []
        kernel.on_late_output = self.late_output.extend

    async def run(
        self, timeout: float = 30.0, number: int = 1, code: str = "code"
    ) -> list[Output | ExecutionEnd]:
        """Returns all items that one run yields."""
        return [
            item
            async for batch in self.kernel.execute(make_request(timeout, number, code))
            for item in batch
        ]


OpenHarness = Callable[..., AbstractAsyncContextManager[KernelHarness]]  # takes a script


def make_request(timeout: float = 30.0, number: int = 1, code: str = "code") -> KernelRequest:
    return KernelRequest(code, {"NAME": "value"}, timeout, number)


async def connect_port(port: int) -> sockets.socket:
    """Stands for the `connect` of a sandbox, on the host."""
    one = sockets.socket()
    one.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
    except BaseException:
        one.close()
        raise
    return one


@asynccontextmanager
async def open_harness(
    directory: Path,
    script: Script,
    timeouts: KernelTimeouts = SHORT_TIMEOUTS,
    interrupt_mode: InterruptMode = "signal",
    transport: Transport = "ipc",
    *,
    has_fence: bool = True,
) -> AsyncIterator[KernelHarness]:
    """Opens a ready kernel; closes everything at the end."""
    ports = KernelPorts(Network.HOST).take() if transport == "tcp" else None
    connection = ConnectionInfo.new(directory, tcp_ports=ports)
    machine = FakeMachineHandle()
    try:
        with ScriptedKernel(connection, script).serving() as scripted:
            kernel = Kernel(
                connection,
                machine,
                interrupt_mode,
                timeouts,
                has_fence=has_fence,
                connect_port=connect_port,
            )
            await kernel.wait_ready(10)
            yield KernelHarness(kernel, scripted, machine)
    finally:
        machine.end(ExitInfo(reason=EndReason.STOPPED))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

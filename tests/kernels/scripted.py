"""A kernel of a few lines, in a thread: it speaks the wire protocol as a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

from era_kernels.kernels.kernel import InterruptMode, Kernel
from era_kernels.kernels.messages import FENCE
from era_kernels.kernels.run import Patience
from era_kernels.kernels.wire import Connection
from era_kernels.models import Ending, Finished, Output, Reason, Request

Message = dict[str, Any]
Script = Callable[["ScriptedKernel", Message], None]

QUICK = Patience(again=0.1, give_up=0.3, missing=0.3, drain_most=1.0)


class ScriptedKernel:
    """Answers kernel_info by itself; each execute_request is handed to `script`."""

    def __init__(self, connection: Connection, script: Script) -> None:
        self.script = script
        self.asked: list[str] = []  # the types of all requests, in order
        self.requests: list[Message] = []
        self.on_control: Script = lambda kernel, request: None  # it answers nothing
        self._stop = False
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
            self._stop = True
            self._thread.join()
            self._context.destroy(linger=0)

    # what scripts say

    def out(self, request: Message, text: str, name: str = "stdout") -> None:
        self.publish("stream", {"name": name, "text": text}, request)

    def fence(self, request: Message, nonce: str | None = None) -> None:
        own = request["metadata"]["era"]["nonce"]
        self.publish("display_data", {"data": {FENCE: {"nonce": nonce or own}}}, request)

    def reply(self, request: Message, exit_code: object = 0, **era: object) -> None:
        content = {"status": "ok", "era": {"exit_code": exit_code, "exception": None, **era}}
        self._session.send(
            self.shell, "execute_reply", content, parent=request, ident=request["ident"]
        )

    def end(self, request: Message, exit_code: object = 0) -> None:
        """A run that ends as it should."""
        self.fence(request)
        self.reply(request, exit_code)

    def tell(self, request: Message, content: Message, kind: str = "reply") -> None:
        """Answer a request that came by control."""
        self._session.send(self.control, kind, content, parent=request, ident=request["ident"])

    def publish(self, kind: str, content: Message, parent: Message | None) -> None:
        self._session.send(self.iopub, kind, content, parent=parent)

    def publish_raw(self, parts: list[bytes], key: bool = True) -> None:
        """Header, parent, metadata and content as they are; signed unless `key` is False."""
        signature = self._session.sign(parts) if key else b"0" * 64
        self.iopub.send_multipart([b"topic", b"<IDS|MSG>", signature, *parts])

    # the machinery

    def _bind(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.SNDHWM, 0)
        socket.bind(address)
        return socket

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self.shell, zmq.POLLIN)
        poller.register(self.control, zmq.POLLIN)
        while not self._stop:
            for socket, _ in poller.poll(10):
                self._handle(socket)

    def _handle(self, socket: zmq.Socket[bytes]) -> None:
        ident, message = self._session.recv(socket)
        assert message is not None
        message["ident"] = ident
        self.asked.append(message["msg_type"])
        if message["msg_type"] == "kernel_info_request":
            self.publish("status", {"execution_state": "idle"}, message)
            self._session.send(socket, "kernel_info_reply", {}, parent=message, ident=ident)
        elif message["msg_type"] == "execute_request":
            self.requests.append(message)
            self.script(self, message)
        elif socket is self.control:
            self.on_control(self, message)


class Keeper:
    """A machine in words: notes signals, and ends when told."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.signals: list[int] = []
        self.words = ""

    async def signal(self, number: int) -> None:
        self.signals.append(number)

    async def aclose(self, reason: str | None = None) -> None:
        self.end(Ending(reason=reason or Reason.STOPPED))

    def last_words(self) -> str:
        words, self.words = self.words, ""
        return words

    def end(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)


class Stage:
    """A scripted kernel and our side of it, connected."""

    def __init__(self, kernel: Kernel, other: ScriptedKernel, keeper: Keeper) -> None:
        self.kernel = kernel
        self.other = other
        self.keeper = keeper
        self.late: list[Output] = []
        kernel.late = self.late.extend

    async def run(self, timeout: float = 30.0, number: int = 1) -> list[Output | Finished]:
        """All that one run yields."""
        return [
            item
            async for batch in self.kernel.execute(a_request(timeout, number))
            for item in batch
        ]


def a_request(timeout: float = 30.0, number: int = 1) -> Request:
    return Request("code", {"NAME": "value"}, timeout, number)


@asynccontextmanager
async def staged(
    directory: Path,
    script: Script,
    patience: Patience = QUICK,
    interrupt_mode: InterruptMode = "signal",
) -> AsyncIterator[Stage]:
    """A ready kernel; everything is closed when left."""
    connection = Connection.new(directory)
    keeper = Keeper()
    try:
        with ScriptedKernel(connection, script).serving() as other:
            kernel = Kernel(connection, keeper, interrupt_mode, patience)
            await kernel.wait_ready(10)
            yield Stage(kernel, other, keeper)
    finally:
        keeper.end(Ending(reason=Reason.STOPPED))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

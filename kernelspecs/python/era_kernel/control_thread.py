"""Answers requests on control and takes replies to `input()`, in a thread, while a program runs.

The main thread is busy with the program. This thread owns the sockets `control` and `stdin`,
answers what it can by itself, hands other requests to the main thread and sends its answers. Other
threads only append to a queue, which is one atomic step: an interrupt can come anywhere in the
user's program, and never cuts a message in two.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import EFD_CLOEXEC, EFD_NONBLOCK, eventfd, eventfd_read, eventfd_write
from select import POLLIN, poll
from typing import Any

from jupyter_client.session import Session

from era_kernel.kernel_sockets import KernelSockets
from era_kernel.raw_sockets import Parts, descriptor, has_message, receive_parts, send_parts
from era_kernel.signal_masks import start_kernel_thread
from era_kernel.standard_requests import STATIC_REQUESTS
from era_kernel.tracebacks import log_fault

Content = dict[str, Any]
RequestHandler = Callable[[Content], Content]


class PendingInput:
    """A call of `input()` that waits; its `value` is None when nobody can answer."""

    __slots__ = ("answered_lock", "value")

    def __init__(self) -> None:
        self.value: str | None = None
        self.answered_lock = allocate_lock()
        self.answered_lock.acquire()

    def resolve(self, value: object) -> None:
        self.value = value if isinstance(value, str) else None
        self.answered_lock.release()


class ControlServer:
    """Owns the control thread; other threads use this object as the socket `control`."""

    def __init__(self, session: Session, sockets: KernelSockets, stderr_fd: int) -> None:
        self._session = session.clone()  # a session must not be used by two threads
        self._control, self._stdin = sockets.control, sockets.stdin
        self._stderr_fd = stderr_fd
        self._queue: deque[Callable[[], object]] = deque()
        self._wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self._inputs_by_key: dict[str, PendingInput] = {}
        self._inputs_on_stdin: deque[PendingInput] = deque()  # whose replies name no key
        self._handlers: dict[str, RequestHandler] = {"input_reply": self._on_input_reply}
        self._on_other_request: Callable[[Parts], object] = list
        self._iopub: Any = None
        self._thread_id = 0
        self._is_stopped = False
        self._ended_lock = allocate_lock()

    def start(
        self,
        handlers: Mapping[str, RequestHandler],
        on_other_request: Callable[[Parts], object],
        iopub: Any,
    ) -> None:
        """Starts the thread: `handlers` answer by type, `on_other_request` gets other requests.

        Those of Jupyter's protocol are told on `iopub`, a socket that any thread may use.
        """
        self._iopub = iopub
        self._handlers |= handlers
        self._on_other_request = on_other_request
        self._ended_lock.acquire()
        self._thread_id = start_kernel_thread(self._serve)

    def close(self) -> None:
        """Sends what is queued and ends the thread; the sockets are the caller's again."""
        self._enqueue(self._stop)
        if get_ident() != self._thread_id:
            self._ended_lock.acquire()

    def send_multipart(self, parts: list[Any], **_: Any) -> None:
        """Sends on control a message that jupyter_client made."""
        self._enqueue(lambda: send_parts(self._control, parts))

    # ------------------------------------------------------------ input

    def ask(self, key: str, publish: Callable[[], object]) -> str | None:
        """Publishes a request for input; returns the answer, or None when nobody listens.

        Any number of threads may ask at once, each with its own key. An interrupt ends the wait;
        the reply to an answer that comes later says that it was not taken.
        """
        pending = self._inputs_by_key[key] = PendingInput()
        try:
            publish()
            pending.answered_lock.acquire()
        finally:
            self._inputs_by_key.pop(key, None)
        return pending.value

    def ask_via_stdin(self, client: Parts, parent: Content, content: Content) -> str | None:
        """Asks on the channel stdin, for clients that speak plain Jupyter; else as `ask`."""
        message = self._session.msg("input_request", content, parent=parent)
        parts = self._session.serialize(message, ident=client)
        pending = PendingInput()
        self._inputs_on_stdin.append(pending)
        try:
            self._enqueue(lambda: send_parts(self._stdin, parts))
            pending.answered_lock.acquire()
        finally:
            if pending in self._inputs_on_stdin:
                self._inputs_on_stdin.remove(pending)
        return pending.value

    def _on_input_reply(self, content: Content) -> Content:
        pending = self._inputs_by_key.pop(str(content.get("key")), None)
        if pending is not None:
            pending.resolve(content.get("value"))
        return {"status": "ok", "taken": pending is not None}

    # ------------------------------------------------------------ the thread

    def _enqueue(self, action: Callable[[], object]) -> None:
        self._queue.append(action)
        eventfd_write(self._wake_fd, 1)

    def _serve(self) -> None:
        waiting = poll()
        for source in (descriptor(self._control), descriptor(self._stdin), self._wake_fd):
            waiting.register(source, POLLIN)
        while not self._is_stopped:
            # libzmq signals a change, not a state: all messages that are there are taken each time.
            while has_message(self._control):
                self._run_safely(lambda: self._on_control(receive_parts(self._control)))
            while has_message(self._stdin):
                self._run_safely(lambda: self._on_stdin(receive_parts(self._stdin)))
            if self._queue:
                self._run_safely(self._queue.popleft())
                continue
            waiting.poll()
            self._run_safely(self._on_wake)
        self._ended_lock.release()

    def _run_safely(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # no message may end this thread
            log_fault(self._stderr_fd, error)

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            eventfd_read(self._wake_fd)

    def _on_control(self, parts: Parts) -> None:
        identities, frames = self._session.feed_identities(parts)
        request = self._session.deserialize(frames)
        msg_type = request["header"]["msg_type"]
        handler = self._handlers.get(msg_type)
        if handler is None:
            self._on_other_request(parts)
            return
        reply = f"{msg_type.removesuffix('_request').removesuffix('_reply')}_reply"
        content = handler(request["content"])
        is_standard = msg_type in STATIC_REQUESTS
        if is_standard:
            self._session.send(self._iopub, "status", {"execution_state": "busy"}, request)
        self._session.send(self._control, reply, content, request, identities)
        if is_standard:
            self._session.send(self._iopub, "status", {"execution_state": "idle"}, request)

    def _on_stdin(self, parts: Parts) -> None:
        _, frames = self._session.feed_identities(parts)
        reply = self._session.deserialize(frames)
        if reply["header"]["msg_type"] == "input_reply" and self._inputs_on_stdin:
            self._inputs_on_stdin.popleft().resolve(reply["content"].get("value"))

    def _stop(self) -> None:
        self._is_stopped = True

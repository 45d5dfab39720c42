"""The thread that answers while a program runs: requests on control, and replies to `input()`.

The main thread has no time for them: it runs the program. This one owns the sockets `control` and
`stdin`, answers what it can by itself, and hands the rest to the main thread, whose answers it
sends. Others only append to a queue, which is one atomic step: an interrupt can strike anywhere in
the user's program and yet never tear a message apart.
"""

from __future__ import annotations

import _thread
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import zmq
from era_sockets import Parts, Sockets
from jupyter_client.session import Session

Content = dict[str, Any]
Answer = Callable[[Content], Content]


class Question:
    """One `input()` that waits. `value` is None when there is nobody to answer."""

    __slots__ = ("answered", "value")

    def __init__(self) -> None:
        self.value: str | None = None
        self.answered = _thread.allocate_lock()
        self.answered.acquire()

    def answer(self, value: object) -> None:
        self.value = value if isinstance(value, str) else None
        self.answered.release()


class Control:
    """The thread, and what others may ask of it. For them it is the socket `control`, too."""

    def __init__(self, session: Session, sockets: Sockets, words: int) -> None:
        self._session = session.clone()  # they are not made for two threads
        self._session.digest_history_size = 0  # it would grow with each question
        self._control, self._stdin = sockets.control, sockets.stdin
        self._words = words
        self._queue: deque[Callable[[], object]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._questions: dict[str, Question] = {}
        self._plain: deque[Question] = deque()  # of clients that name no question in a reply
        self._answers: dict[str, Answer] = {"input_reply": self._on_reply}
        self._forward: Callable[[Parts], object] = list
        self._ident = 0
        self._left = False
        self._ended = _thread.allocate_lock()

    def start(self, answers: Mapping[str, Answer], forward: Callable[[Parts], object]) -> None:
        """Serve: requests of these types are answered here, all others handed to `forward`."""
        self._answers |= answers
        self._forward = forward
        self._ended.acquire()
        # Not a threading.Thread: user code that counts or lists threads must not see it.
        self._ident = _thread.start_new_thread(self._serve, ())

    def close(self) -> None:
        """Send what there is and give the sockets up; they are the caller's again."""
        self._put(self._leave)
        if _thread.get_ident() != self._ident:
            self._ended.acquire()

    def send_multipart(self, parts: list[Any], **_: Any) -> None:
        """Send a message that jupyter_client made on control."""
        self._put(lambda: self._control.send_multipart(parts))

    # ------------------------------------------------------------ input

    def ask(self, key: str, publish: Callable[[], object]) -> str | None:
        """Publish a request for input with that key; the answer, or None when nobody listens.

        Any number of threads may ask at once. An interrupt ends the waiting; an answer that comes
        later is told that it was not taken.
        """
        question = self._questions[key] = Question()
        try:
            publish()
            question.answered.acquire()
        finally:
            self._questions.pop(key, None)
        return question.value

    def ask_plainly(self, client: Parts, parent: Content, content: Content) -> str | None:
        """The same by the channel stdin, for clients that speak plain Jupyter."""
        message = self._session.msg("input_request", content, parent=parent)
        parts = self._session.serialize(message, ident=client)
        question = Question()
        self._plain.append(question)
        try:
            self._put(lambda: self._stdin.send_multipart(parts))
            question.answered.acquire()
        finally:
            if question in self._plain:
                self._plain.remove(question)
        return question.value

    def _on_reply(self, content: Content) -> Content:
        question = self._questions.pop(str(content.get("key")), None)
        if question is not None:
            question.answer(content.get("value"))
        return {"status": "ok", "taken": question is not None}

    # ------------------------------------------------------------ the thread

    def _put(self, step: Callable[[], object]) -> None:
        self._queue.append(step)
        os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        # Signals are for the main thread: only there Python's handlers run.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        poller = zmq.Poller()
        for source in (self._control, self._stdin, self._wake):
            poller.register(source, zmq.POLLIN)
        receivers = {
            self._control: lambda: self._on_control(self._control.recv_multipart()),
            self._stdin: lambda: self._on_stdin(self._stdin.recv_multipart()),
            self._wake: self._on_wake,
        }
        while not self._left:
            for source, _ in poller.poll():
                self._do(receivers[source])
        self._ended.release()

    def _do(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception:  # nothing that anybody sends may silence the kernel
            os.write(self._words, traceback.format_exc().encode(errors="replace"))

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake)
        while self._queue:
            self._do(self._queue.popleft())

    def _on_control(self, parts: Parts) -> None:
        identities, frames = self._session.feed_identities(parts)
        request = self._session.deserialize(frames)
        kind = request["header"]["msg_type"]
        answer = self._answers.get(kind)
        if answer is None:
            self._forward(parts)
            return
        reply = f"{kind.removesuffix('_request').removesuffix('_reply')}_reply"
        content = answer(request["content"])
        self._session.send(self._control, reply, content, request, identities)

    def _on_stdin(self, parts: Parts) -> None:
        _, frames = self._session.feed_identities(parts)
        reply = self._session.deserialize(frames)
        if reply["header"]["msg_type"] == "input_reply" and self._plain:
            self._plain.popleft().answer(reply["content"].get("value"))

    def _leave(self) -> None:
        self._left = True

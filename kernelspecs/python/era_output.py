"""All that a kernel tells the world, in one order: printed text, children's output, messages.

    print, display, status ──▶ queue ─┐
    descriptors 1 and 2    ──▶ pipes ─┴▶ one thread ──▶ iopub

The thread alone uses the socket. Other threads only append to a queue, which is one atomic step:
an interrupt or a signal handler that raises can strike anywhere in the user's `print` and yet never
tear a message apart.

Before a text is queued, whatever waits in the pipes goes first: so what children, C code and
`os.write` wrote stands in order with what Python prints. Each run has pipes of its own: what an old
child writes later is known as such.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import era_runs
import zmq
from era_pace import Allowance, Pace
from era_pipes import Pipes, Text
from era_runs import Run, Strand
from jupyter_client.session import DELIM, Session

FENCE = "application/vnd.era.fence+json"
JOIN = 0.02  # seconds for which texts are joined after one was sent
BATCH = 64 * 1024  # bytes that are sent without waiting for more
PIECE = 1024 * 1024  # characters of one message
LONGEST = 127 * 1024 * 1024  # bytes of one message's part: from 128 MiB on the server hangs up
BACKLOG = 8 * 1024 * 1024  # bytes in the queue at which a printing thread waits
GRACE = 0.0005  # seconds
_NEVER = 1 << 62

Step = Callable[[], object]
Item = Text | Step | Run  # a run stands for its end


class Output:
    """The queue, the pipes and the thread. Starts with `start`; nothing is sent before that."""

    def __init__(self, session: Session, socket: zmq.Socket[bytes]) -> None:
        self._session = session
        self._socket = socket
        self._queue: deque[Item] = deque()
        self._queued = 0  # bytes, roughly: threads may miss each other's
        self._wake_at = _NEVER  # bytes at which the sleeping thread is to be woken
        self._urgent = False  # a step is queued, which is not to be joined with what may come
        self._pace = Pace()
        self._pipes = Pipes(self._pace)
        self._words = os.dup(2)  # what goes wrong in here is told to the server, not to the user
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._numbers = itertools.count(1)  # of texts
        self._written = 0  # the newest one
        self._flushed = 0  # up to which somebody waited
        self._allowance = Allowance()
        self._sent = 0.0  # when a text was last sent
        self._parent: dict[str, Any] = {}
        self._packed_parent = b"{}"
        self._ended = _thread.allocate_lock()
        self.in_child = False
        os.register_at_fork(after_in_child=self._on_fork)

    # ------------------------------------------------------------ for all threads

    def start(self) -> None:
        self._pipes.watch(self._wake, self._socket.get(zmq.FD))
        self._ended.acquire()
        # Not a threading.Thread: user code that counts or lists threads must not see it.
        _thread.start_new_thread(self._serve, ())

    def write(self, name: str, data: bytes) -> None:
        """Queue what a program wrote to its stdout or stderr."""
        if self.in_child:
            _write_all(1 if name == "stdout" else 2, data)
            return
        run = era_runs.current()
        strand = run.stdout if name == "stdout" else run.stderr
        if strand.late:
            self._pace.take(len(data), strand)
            if pause := self._pace.wait():
                time.sleep(pause)
        self._let_pipes_go_first()
        self._queue.append((strand, data))
        self._written = next(self._numbers)
        size = self._queued = self._queued + len(data)
        if size >= self._wake_at:
            os.eventfd_write(self._wake, 1)
        if size > BACKLOG:
            self._wait_for(_nothing)
        elif name == "stderr" and data.endswith(b"\n"):
            self.flush()  # as in every interpreter: what comes before a crash is its explanation

    def flush(self) -> None:
        """What was written is on its way when this returns, unless that is asked all the time.

        The thread that sends it may have no chance to do so later: C code that keeps the
        interpreter's lock may follow, or a crash.
        """
        written = self._written
        if written != self._flushed and not self.in_child and self._allowance.left():
            with self._allowance:
                self._wait_for(_grace)
            self._flushed = written

    def send_multipart(self, parts: list[Any], copy: bool = True, **_: Any) -> None:
        """Send a message that jupyter_client made, in order with the texts.

        Raises ValueError for one that nobody would take: the whole connection would be lost by it.
        """
        size = max(map(len, parts))
        if size > LONGEST:
            raise ValueError(f"{size} bytes are too many to be shown; at most {LONGEST} are taken")
        if not self.in_child:
            self._let_pipes_go_first()
            self._put(lambda: self._socket.send_multipart(parts, copy=copy))

    def begin(self, run: Run) -> None:
        """From here on descriptors 1 and 2 belong to `run`."""
        self._pipes.open(run)

    def finish(self, run: Run) -> None:
        """All that `run` wrote goes out, and then the fence that it waits for."""
        self._put(run)

    def close(self) -> None:
        """Send what there is and give the socket up; it is the caller's again."""
        self._put(self._leave)
        self._ended.acquire()

    def _let_pipes_go_first(self) -> None:
        if self._pipes.waiting():
            self._wait_for(self._drain)

    def _put(self, step: Step | Run) -> None:
        self._queue.append(step)
        self._urgent = True
        if self._wake_at < _NEVER:
            os.eventfd_write(self._wake, 1)

    def _wait_for(self, step: Step) -> None:
        """Until the thread has done `step` and all that was queued before, if one may wait here."""
        if self._pipes.is_busy():
            return
        done = _thread.allocate_lock()
        done.acquire()
        self._put(lambda: (step(), done.release()))
        done.acquire()

    def _on_fork(self) -> None:
        self.in_child = True  # where nobody serves the queue

    # ------------------------------------------------------------ for the one thread

    def _serve(self) -> None:
        # Signals are for the main thread: only there Python's handlers run.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._pipes.busy.add(_thread.get_ident())  # user code may run here: it destructs objects
        pending = _Pending()
        while self._socket is not None:
            for item in self._take(self._wait(pending)):
                if isinstance(item, tuple):
                    pending.add(item)
                else:
                    self._emit(pending.take())
                    self._do(item)
            if pending.is_due(self._sent):
                self._emit(pending.take())
        self._ended.release()

    def _wait(self, pending: _Pending) -> list[int]:
        """Until there is something to do; the descriptors that are readable."""
        seconds = pending.patience(self._sent)
        self._wake_at = pending.room(self._sent)
        if self._urgent or (self._queue and self._queued >= self._wake_at):
            seconds = 0
        ready = self._pipes.wait(seconds)
        self._wake_at = _NEVER
        if self._wake in ready:
            os.eventfd_read(self._wake)
        return ready

    def _take(self, ready: Iterable[int]) -> list[Item]:
        """What is queued, then what is in the pipes, which came after it; then ends of runs."""
        with self._pipes.lock:
            self._urgent = False
            items = [self._queue.popleft() for _ in range(len(self._queue))]
            self._queued = 0
            texts = [text for descriptor in ready for text in self._pipes.read(descriptor)]
        end = next((n for n, item in enumerate(items) if isinstance(item, Run)), len(items))
        items[end:end] = texts
        self._welcome()
        return items

    def _do(self, step: Step | Run) -> None:
        try:
            if isinstance(step, Run):
                self._finish(step)
            else:
                step()
        except Exception:  # one message that cannot be sent must not silence the kernel
            os.write(self._words, traceback.format_exc().encode(errors="replace"))

    def _drain(self) -> None:
        with self._pipes.lock:
            texts = self._pipes.read_all()
        self._emit(texts)

    def _finish(self, run: Run) -> None:
        self._drain()
        for strand in (run.stdout, run.stderr):
            self._send(strand, strand.decode(b"", True))
            strand.late = True
        if run.nonce is not None:
            content = {"data": {FENCE: {"nonce": run.nonce}}, "metadata": {}, "transient": {}}
            self._publish("display_data", content, run.parent)

    def _leave(self) -> None:
        self._drain()
        self._socket = None

    def _emit(self, texts: list[Text]) -> None:
        """Send texts, neighbours of one strand in one message."""
        start = 0
        for end in range(1, len(texts) + 1):
            strand = texts[start][0]
            if end == len(texts) or texts[end][0] is not strand:
                self._send(strand, strand.decode(b"".join([data for _, data in texts[start:end]])))
                start = end

    def _send(self, strand: Strand, text: str) -> None:
        for start in range(0, len(text), PIECE):
            content = {"name": strand.name, "text": text[start : start + PIECE]}
            self._do(lambda content=content: self._publish("stream", content, strand.parent))
            self._sent = time.monotonic()

    def _publish(self, kind: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        """Like `Session.send` in half its time; 20 000 alternating lines are 40 000 messages."""
        if parent is not self._parent:
            self._parent, self._packed_parent = parent, self._session.pack(parent)
        header = self._session.pack(self._session.msg_header(kind))
        parts = [header, self._packed_parent, b"{}", self._session.pack(content)]
        self._socket.send_multipart([DELIM, self._session.sign(parts), *parts])

    def _welcome(self) -> None:
        """Greet who has subscribed (JEP 65). Sending eats libzmq's edges, so look every time."""
        while self._socket is not None and self._socket.get(zmq.EVENTS) & zmq.POLLIN:
            with contextlib.suppress(zmq.Again):
                topic = self._socket.recv(zmq.NOBLOCK)
                if topic[:1] == b"\1":
                    self._publish("iopub_welcome", {"subscription": topic[1:].decode()}, {})


class _Pending:
    """Texts that have been taken from the queue and not been sent.

    Lines go at once when nothing was sent just before, else together with what comes meanwhile.
    The beginning of a line waits for its end, but not for long.
    """

    def __init__(self) -> None:
        self._texts: list[Text] = []
        self._size = 0
        self._since = 0.0

    def add(self, text: Text) -> None:
        if not self._texts:
            self._since = time.monotonic()
        self._texts.append(text)
        self._size += len(text[1])

    def take(self) -> list[Text]:
        texts, self._texts, self._size = self._texts, [], 0
        return texts

    def is_due(self, sent: float) -> bool:
        return bool(self._texts) and (self._size >= BATCH or self.patience(sent) == 0)

    def patience(self, sent: float) -> float | None:
        """Seconds until the texts are to be sent, at the latest; None when there are none."""
        if not self._texts:
            return None
        start = sent if self._is_whole() else max(sent, self._since)
        return max(0.0, start + JOIN - time.monotonic())

    def room(self, sent: float) -> int:
        """Bytes that may be added before it is time to look again."""
        if not self._texts or (not self._is_whole() and time.monotonic() > sent + JOIN):
            return 1
        return BATCH - self._size

    def _is_whole(self) -> bool:
        return self._texts[-1][1].endswith(b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _nothing() -> None:
    """Waited for, this tells that all before it is done."""


def _grace() -> None:
    """Let libzmq's own thread write what it was given: the program may be about to crash."""
    time.sleep(GRACE)

"""Sends all output of a kernel, in one order: printed text, children's output, messages.

    print, display, status ──▶ queue ─┐
    descriptors 1 and 2    ──▶ pipes ─┴▶ one thread ──▶ iopub

Only that thread uses the socket. Other threads only append to a queue, which is one atomic step:
an interrupt or a signal handler that raises can come anywhere in the user's `print`, and never cuts
a message in two.

Before a text is queued, the data in the pipes is sent: so what children, C code and `os.write`
wrote stands in order with what Python prints. Each run has pipes of its own: so what a child of an
earlier run writes is known as such.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from os import EFD_CLOEXEC, EFD_NONBLOCK, eventfd, eventfd_read, eventfd_write, getpid
from os import write as write_fd
from time import monotonic, sleep
from typing import Any

from jupyter_client.session import DELIM, Session

from era_kernel import run_context
from era_kernel.fd_capture import CapturedPipes, StreamBytes
from era_kernel.rate_limits import FlushBudget, TokenBucket
from era_kernel.raw_sockets import Socket, descriptor, has_message, receive_parts, send_parts
from era_kernel.run_context import OutputStream, RunContext
from era_kernel.signal_masks import start_kernel_thread
from era_kernel.tracebacks import log_fault

FENCE_MIME = "application/vnd.era.fence+json"
JOIN_SECONDS = 0.02  # seconds for which texts are joined after one was sent
FULL_BATCH_BYTES = 64 * 1024  # bytes that are sent without waiting for more
MAX_MESSAGE_CHARS = 1024 * 1024  # characters of one message
MAX_PART_BYTES = 127 * 1024 * 1024  # bytes of a message's part: the server hangs up from 128 MiB on
MAX_QUEUED_BYTES = 8 * 1024 * 1024  # bytes in the queue at which a printing thread waits
GRACE_SECONDS = 0.0005  # seconds in which libzmq's thread writes what it was given
_NEVER_WAKE = 1 << 62

Action = Callable[[], object]


class _Stop:
    """Stands in the queue for the end of the process."""


QueueItem = StreamBytes | Action | RunContext | _Stop  # a run stands for its end


class OutputPublisher:
    """Owns the queue, the pipes and the thread; nothing is sent before `start`."""

    def __init__(self, session: Session, socket: Socket) -> None:
        self._session = session
        self._socket = socket
        self._queue: deque[QueueItem] = deque()
        self._queued_bytes = 0  # roughly: threads may miss each other's additions
        self._wake_at_bytes = _NEVER_WAKE  # bytes at which the sleeping thread is to be woken
        self._has_urgent = False  # an action is queued, which waits for no later text
        self._late_bucket = TokenBucket()
        self._pipes = CapturedPipes(self._late_bucket)
        self.is_pipe = self._pipes.holds  # of what is captured, or will be
        self._stderr_fd = os.dup(2)  # for errors in here: they go to the server, not to the user
        self._wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self._write_numbers = count(1)  # of calls of `write`
        self._last_written = 0  # number of the newest write
        self._last_flushed = 0  # number of the newest write that a flush waited for
        self._flush_budget = FlushBudget()
        self._last_sent_at = 0.0  # when a text was last sent
        self._last_parent: dict[str, Any] = {}
        self._packed_parent = b"{}"
        self._ended_lock = allocate_lock()
        self._pid = getpid()
        # One entry for each fork that is being made; never empty again in a child. No function in
        # Python changes it: a trace function of the program might raise in there.
        self._forks: list[None] = []
        os.register_at_fork(
            before=partial(self._forks.append, None), after_in_parent=self._forks.pop
        )

    # ------------------------------------------------------------ called by any thread

    @property
    def is_forked_child(self) -> bool:
        """True in a fork, in which no thread serves the queue.

        Functions that `os.register_at_fork` is given may print before one of ours is called in the
        child. So the process is asked, from before a fork until it is over.
        """
        return bool(self._forks) and getpid() != self._pid

    def start(self) -> None:
        self._pipes.watch(self._wake_fd, descriptor(self._socket))
        self._ended_lock.acquire()
        start_kernel_thread(self._serve)

    def write(self, name: str, data: bytes) -> None:
        """Queues what a program wrote to its stdout or stderr."""
        number = 1 if name == "stdout" else 2
        if self.is_forked_child or self._pipes.is_redirected(number):
            _write_all(number, data)
            return
        run = run_context.current()
        stream = run.stdout if name == "stdout" else run.stderr
        if stream.is_late:
            self._late_bucket.consume(len(data), stream)
            if pause := self._late_bucket.seconds_until_ready():
                sleep(pause)
        self._drain_pipes_first()
        self._queue.append((stream, data))
        self._last_written = next(self._write_numbers)
        size = self._queued_bytes = self._queued_bytes + len(data)
        if size >= self._wake_at_bytes:
            eventfd_write(self._wake_fd, 1)
        if size > MAX_QUEUED_BYTES:
            self._wait_until_done(_do_nothing)
        elif name == "stderr" and data.endswith(b"\n"):
            self.flush()  # as in every interpreter: it may explain a crash that follows

    def flush(self) -> None:
        """Waits until what was written has been sent, unless the program flushes all the time.

        The sending thread may have no chance to do so later: C code that keeps the interpreter's
        lock may follow, or a crash.
        """
        written = self._last_written
        if (
            written != self._last_flushed
            and not self.is_forked_child
            and self._flush_budget.has_time()
        ):
            with self._flush_budget:
                self._wait_until_done(_wait_for_libzmq)
            self._last_flushed = written

    def send_multipart(self, parts: list[Any], copy: bool = True, **_: Any) -> None:
        """Sends a message that jupyter_client made, in order with the texts.

        Raises ValueError for one that is too large: the server would close the connection.
        """
        size = max(map(len, parts))
        if size > MAX_PART_BYTES:
            raise ValueError(
                f"{size} bytes are too many to be shown; at most {MAX_PART_BYTES} are taken"
            )
        if not self.is_forked_child:
            self._drain_pipes_first()
            self._enqueue(lambda: send_parts(self._socket, parts, copy))

    def begin_run(self, run: RunContext) -> None:
        """Gives descriptors 1 and 2 to `run`, from here on."""
        if not self._pipes.open_for_run(run):
            self._wait_until_done(self._drain_pipes)
            self._pipes.reuse_for_run(run)

    def finish_run(self, run: RunContext) -> None:
        """Sends all that `run` wrote, and then the fence that its client waits for."""
        self._enqueue(run)

    def close(self) -> None:
        """Sends what is queued and ends the thread; the socket is the caller's again."""
        self._enqueue(_Stop())
        self._ended_lock.acquire()

    def _drain_pipes_first(self) -> None:
        if self._pipes.has_unread():
            self._wait_until_done(self._drain_pipes)

    def _enqueue(self, action: Action | RunContext | _Stop) -> None:
        self._queue.append(action)
        self._has_urgent = True
        if self._wake_at_bytes < _NEVER_WAKE:
            eventfd_write(self._wake_fd, 1)

    def _wait_until_done(self, action: Action) -> None:
        """Waits until the thread has done `action` and all before it, if the caller may wait."""
        if self._pipes.is_lock_holder():
            return
        done = allocate_lock()
        done.acquire()
        self._enqueue(lambda: (action(), done.release()))
        done.acquire()

    # ------------------------------------------------------------ called by the sending thread

    def _serve(self) -> None:
        # Objects may be destroyed here, and their destructors are the user's code.
        self._pipes.lock_holders.add(get_ident())
        pending = _PendingTexts()
        while self._socket is not None:
            for item in self._take_items(self._wait_for_work(pending)):
                if isinstance(item, tuple):
                    pending.add(item)
                else:
                    self._send_texts(pending.take())
                    self._run_safely(item)
            if pending.is_due(self._last_sent_at):
                self._send_texts(pending.take())
        self._ended_lock.release()

    def _wait_for_work(self, pending: _PendingTexts) -> list[int]:
        """Waits until there is something to do; returns the descriptors that are readable."""
        seconds = pending.send_timeout(self._last_sent_at)
        self._wake_at_bytes = pending.remaining_bytes(self._last_sent_at)
        if self._has_urgent or (self._queue and self._queued_bytes >= self._wake_at_bytes):
            seconds = 0
        ready = self._pipes.wait(seconds)
        self._wake_at_bytes = _NEVER_WAKE
        if self._wake_fd in ready:
            eventfd_read(self._wake_fd)
        return ready

    def _take_items(self, ready: Iterable[int]) -> list[QueueItem]:
        """Takes what is queued, then the data in the pipes, which came later, then what ends it.

        That is the end of a run, or of the process.
        """
        with self._pipes.lock:
            self._has_urgent = False
            items = [self._queue.popleft() for _ in range(len(self._queue))]
            self._queued_bytes = 0
            texts = [text for descriptor in ready for text in self._pipes.read(descriptor)]
        ends = (n for n, item in enumerate(items) if isinstance(item, RunContext | _Stop))
        end = next(ends, len(items))
        items[end:end] = texts
        self._send_welcome()
        return items

    def _run_safely(self, action: Action | RunContext | _Stop) -> None:
        try:
            if isinstance(action, RunContext):
                self._publish_run_end(action)
            elif isinstance(action, _Stop):
                self._stop()
            else:
                action()
        except BaseException as error:  # one message that cannot be sent must not end the thread
            log_fault(self._stderr_fd, error)

    def _drain_pipes(self) -> None:
        with self._pipes.lock:
            texts = self._pipes.read_all()
        self._send_texts(texts)

    def _publish_run_end(self, run: RunContext) -> None:
        self._drain_pipes()
        for stream in (run.stdout, run.stderr):
            self._send_text(stream, stream.decode(b"", True))
            stream.is_late = True
        if run.fence_nonce is not None:
            content = {
                "data": {FENCE_MIME: {"nonce": run.fence_nonce}},
                "metadata": {},
                "transient": {},
            }
            self._publish("display_data", content, run.parent_header)

    def _stop(self) -> None:
        self._drain_pipes()
        self._socket = None

    def _send_texts(self, texts: list[StreamBytes]) -> None:
        """Sends texts; neighbours of the same stream go in one message."""
        start = 0
        for end in range(1, len(texts) + 1):
            stream = texts[start][0]
            if end == len(texts) or texts[end][0] is not stream:
                self._send_text(
                    stream, stream.decode(b"".join([data for _, data in texts[start:end]]))
                )
                start = end

    def _send_text(self, stream: OutputStream, text: str) -> None:
        for start in range(0, len(text), MAX_MESSAGE_CHARS):
            content = {"name": stream.name, "text": text[start : start + MAX_MESSAGE_CHARS]}
            self._run_safely(
                lambda content=content: self._publish("stream", content, stream.parent_header)
            )
            self._last_sent_at = monotonic()

    def _publish(self, msg_type: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        """Sends a message as `Session.send` does, in half its time.

        20 000 lines that alternate between stdout and stderr are 40 000 messages.
        """
        if parent is not self._last_parent:
            self._last_parent, self._packed_parent = parent, self._session.pack(parent)
        header = self._session.pack(self._session.msg_header(msg_type))
        parts = [header, self._packed_parent, b"{}", self._session.pack(content)]
        send_parts(self._socket, [DELIM, self._session.sign(parts), *parts])

    def _send_welcome(self) -> None:
        """Sends a welcome to new subscribers (JEP 65).

        Sending may swallow libzmq's signal that something arrived, so this looks every time.
        """
        while self._socket is not None and has_message(self._socket):
            topic = receive_parts(self._socket)[0]
            if topic[:1] == b"\1":
                self._publish("iopub_welcome", {"subscription": topic[1:].decode()}, {})


class _PendingTexts:
    """The texts that have been taken from the queue and not been sent.

    Whole lines are sent at once when nothing was sent just before, else together with what comes
    meanwhile. The beginning of a line waits for its end, at most JOIN_SECONDS.
    """

    def __init__(self) -> None:
        self._texts: list[StreamBytes] = []
        self._size = 0
        self._first_added_at = 0.0

    def add(self, text: StreamBytes) -> None:
        if not self._texts:
            self._first_added_at = monotonic()
        self._texts.append(text)
        self._size += len(text[1])

    def take(self) -> list[StreamBytes]:
        texts, self._texts, self._size = self._texts, [], 0
        return texts

    def is_due(self, last_sent_at: float) -> bool:
        return bool(self._texts) and (
            self._size >= FULL_BATCH_BYTES or self.send_timeout(last_sent_at) == 0
        )

    def send_timeout(self, last_sent_at: float) -> float | None:
        """Returns the seconds until the texts are to be sent, at most; None when there are none."""
        if not self._texts:
            return None
        start = last_sent_at if self._has_whole_lines() else max(last_sent_at, self._first_added_at)
        return max(0.0, start + JOIN_SECONDS - monotonic())

    def remaining_bytes(self, last_sent_at: float) -> int:
        """Returns how many bytes may be added before the thread has to look again."""
        if not self._texts or (
            not self._has_whole_lines() and monotonic() > last_sent_at + JOIN_SECONDS
        ):
            return 1
        return FULL_BATCH_BYTES - self._size

    def _has_whole_lines(self) -> bool:
        return self._texts[-1][1].endswith(b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[write_fd(descriptor, data) :]


def _do_nothing() -> None:
    """Does nothing; when it is done, so is all that was queued before it."""


def _wait_for_libzmq() -> None:
    """Lets libzmq's own thread write what it was given: the program may be about to crash."""
    sleep(GRACE_SECONDS)

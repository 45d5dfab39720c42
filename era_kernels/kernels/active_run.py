"""Keeps the state of one run: what has arrived, what is missing, and when the run is over.

A run is over when its reply and its fence have arrived (or what stands for the fence, see
`dialects`); or when its machine has ended; or when the
reply or the fence stays away for too long, which ends the machine. Until then its output is handed
on in batches, and while over MAX_PENDING_BYTES of it wait for a slow consumer, the kernel is not
read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from era_kernels.concurrency.idle_timer import IdleTimer
from era_kernels.json_incremental import estimate_size
from era_kernels.kernels.channel_connection import ChannelConnection
from era_kernels.kernels.message_events import Reply
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    KernelRequest,
    Output,
    Stderr,
    Stdout,
    event_values,
)

MAX_PENDING_BYTES = 1024 * 1024
EVENT_OVERHEAD = 200  # bytes that an event costs beside its content
NOT_ANSWERING = "the kernel stopped answering"


@dataclass(frozen=True, slots=True)
class KernelTimeouts:
    """Holds how long a kernel is waited for, in seconds."""

    probe_interval: float = 0.2  # between two kernel_info requests to a new kernel
    # The same when it has answered on shell, but no message has come on iopub yet.
    iopub_probe_interval: float = 0.02
    second_interrupt: float = 0.5  # from the first interrupt to the second
    interrupt_reply: float = 0.5  # for the reply to an interrupt that is a message
    kill: float = 2.5  # from the second interrupt to the end of the machine
    # For the fence after the reply, with nothing on iopub; for the reply after the fence.
    run_end: float = 10.0
    max_run_end: float = 300.0  # for the fence after the reply, while output arrives
    exit: float = 5.0  # for the end of a process that has closed its sockets
    drain: float = 0.05  # of silence on iopub after the process has ended
    max_drain: float = 2.0  # for the same when there is no silence: a child may hold the socket
    settle: float = 0.0  # of silence after reply and idle, where no fence tells the end of output
    max_settle: float = 5.0  # for the same when there is no silence: a timer may print for ever
    refused: float = 0.05  # from a refusal of a run to its next request
    max_refused: float = 2.0  # from the first refusal to the one that counts


class ActiveRun:
    """Holds the state of one execute_request, and hands its output from reader to consumer."""

    def __init__(
        self,
        request: KernelRequest,
        nonce: str,
        iopub: ChannelConnection,
        timeouts: KernelTimeouts,
        close_machine: Callable[[str], None],
    ) -> None:
        self.request = request
        self.msg_id = ""  # of the request, which is sent when the run is ready to take its replies
        self.nonce = nonce
        # The cause of the escalation: the deadline, or a caller who wants the run to end.
        self.timed_out = self.interrupted = False
        self.finished: asyncio.Future[ExecutionEnd] = asyncio.get_running_loop().create_future()
        self._iopub = iopub
        self._timeouts = timeouts
        self._close_machine = close_machine
        self._reply: Reply | None = None
        self._has_fence = False
        self._exit_info: ExitInfo | None = None
        self._idle_timer: IdleTimer | None = None
        self._limit_timer: IdleTimer | None = None
        self._is_abandoned = False
        self._take_stderr: Callable[[], str] = str
        self._pending: list[Output] = []
        self._pending_bytes = 0
        self._batch_ready = asyncio.Event()

    # ------------------------------------------------------------ what comes from the kernel

    @property
    def has_program_ended(self) -> bool:
        """True when the program or its process has ended: nothing is left to interrupt."""
        return self._reply is not None or self._has_fence or self._exit_info is not None

    def accepts(self, parent_id: str) -> bool:
        """Returns whether output with that parent belongs to this run and is still wanted."""
        return (
            parent_id == self.msg_id
            and not self._is_abandoned
            and not self._has_fence
            and not self.finished.done()
        )

    def add_output(self, event: Output, size: int) -> None:
        """Adds an output that cost `size` bytes on the wire; when too much waits, pauses iopub."""
        self._pending.append(event)
        # A rich output may have small values, which take more memory than their text.
        size = max(size, estimate_size(event_values(event), MAX_PENDING_BYTES))
        self._pending_bytes += size + EVENT_OVERHEAD
        self._batch_ready.set()
        if self._idle_timer is not None:
            self._idle_timer.touch()
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._iopub.pause()

    def on_late_output(self) -> None:
        """Notes output of an earlier run: the fence is behind it in the same queue, and on its way.

        Where a thread of an earlier run prints all the time, and the host is busy, that takes long.
        """
        is_fence_missing = self._reply is not None and not self._has_fence
        if is_fence_missing and self._exit_info is None and self._idle_timer is not None:
            self._idle_timer.touch()

    def on_reply(self, reply: Reply) -> None:
        """Takes the reply of the run. Only the first counts."""
        if self._reply is None:
            self._reply = reply
            # The deadline holds no more, and code that forged the reply may print for ever.
            self._start_limit_timer(self._timeouts.max_run_end, self._on_run_end_timeout)
            self._check_complete()

    def on_fence(self) -> None:
        """Notes that all output of the run has arrived.

        Only the first fence counts: a repeated one must not start the idle timer anew.
        """
        if not self._has_fence:
            self._has_fence = True
            self._check_complete()

    def on_machine_ended(self, exit_info: ExitInfo, take_stderr: Callable[[], str] = str) -> None:
        """Notes that the machine has ended; output from before its end may still be on its way.

        `take_stderr` returns what the process wrote to its own stderr, outside of any protocol. It
        is called when all else has arrived.
        """
        if self.finished.done():
            return
        self._exit_info = exit_info
        if not exit_info.is_intended:
            self._take_stderr = take_stderr
        if exit_info.reason is not None or self._has_fence or self._iopub.is_closed:
            self._finish()
            return
        self._start_idle_timer(self._timeouts.drain, self._finish)
        self._start_limit_timer(self._timeouts.max_drain, self._finish)

    def on_iopub_closed(self) -> None:
        """Finishes the run if the machine has ended: no more output can come."""
        if self._exit_info is not None:
            self._finish()

    def _check_complete(self) -> None:
        if self._has_fence and (self._reply is not None or self._exit_info is not None):
            self._finish()
        elif self._exit_info is None:
            self._start_idle_timer(self._timeouts.run_end, self._on_run_end_timeout)

    def _start_idle_timer(self, timeout: float, on_timeout: Callable[[], None]) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        received = self._iopub.received_bytes

        def is_busy() -> bool:
            """Returns whether something came that may be ahead of the fence, though no output."""
            nonlocal received
            before, received = received, self._iopub.received_bytes
            return self._is_iopub_paused() or (not self._has_fence and received != before)

        self._idle_timer = IdleTimer(timeout, on_timeout, is_busy)

    def _start_limit_timer(self, timeout: float, on_timeout: Callable[[], None]) -> None:
        """Starts a timer that, unlike the idle timer, output does not start anew."""
        if self._limit_timer is not None:
            self._limit_timer.cancel()
        self._limit_timer = IdleTimer(timeout, on_timeout, self._is_iopub_paused)

    def _on_run_end_timeout(self) -> None:
        self._close_machine(NOT_ANSWERING)

    def _is_iopub_paused(self) -> bool:
        return self._iopub.is_paused

    def _finish(self) -> None:
        for timer in (self._idle_timer, self._limit_timer):
            if timer is not None:
                timer.cancel()
        if not self.finished.done():
            if stderr := self._take_stderr():
                self._pending.append(Stderr(stderr))
            self.finished.set_result(self._make_finished())
            self._batch_ready.set()

    def _make_finished(self) -> ExecutionEnd:
        if self._exit_info is not None:
            code = self._exit_info.exit_code
            if self.timed_out or self._exit_info.reason == EndReason.INTERRUPTED:
                code = 124 if self.timed_out else 130
            return ExecutionEnd(
                code,
                state="lost",
                exit_info=self._exit_info,
                timed_out=self.timed_out,
                interrupted=self.interrupted,
            )
        if self.timed_out or self._reply is None:
            # The exception, if any, is our interrupt and not the program's own.
            return ExecutionEnd(124, timed_out=True)
        reply = self._reply
        return ExecutionEnd(reply.exit_code, reply.exception, interrupted=self.interrupted)

    # ------------------------------------------------------------ what goes to the consumer

    async def batches(self) -> AsyncGenerator[list[Output | ExecutionEnd], None]:
        """Yields all output since the last batch, in order; at last the `ExecutionEnd`."""
        try:
            while True:
                await self._batch_ready.wait()
                self._batch_ready.clear()
                batch = self._take_batch()
                if self.finished.done():
                    yield [*batch, self.finished.result()]
                    return
                yield batch
                del batch
        finally:
            self._is_abandoned = True
            self._take_batch()

    def _take_batch(self) -> list[Output | ExecutionEnd]:
        batch = merge_adjacent_texts(self._pending)
        self._pending, self._pending_bytes = [], 0
        self._iopub.resume()
        return batch


def merge_adjacent_texts(events: Iterable[Output]) -> list[Output | ExecutionEnd]:
    """Returns the events with neighbouring texts of one stream joined."""
    merged_events: list[Output | ExecutionEnd] = []
    for kind, group in groupby(events, key=type):
        if kind is Stdout or kind is Stderr:
            merged_events.append(kind("".join(event.content for event in group)))  # type: ignore
        else:
            merged_events.extend(group)
    return merged_events

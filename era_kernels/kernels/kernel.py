"""Talks to one running kernel: runs requests on it, interrupts it and receives its output."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Literal, Protocol

from era_kernels.concurrency.idle_timer import IdleTimer
from era_kernels.concurrency.waiting import within_timeout
from era_kernels.errors import KernelSilent, KernelStartFailed
from era_kernels.kernels import message_events
from era_kernels.kernels.active_run import NOT_ANSWERING, ActiveRun, KernelTimeouts
from era_kernels.kernels.answer_watch import AnswerWatch
from era_kernels.kernels.channel_connection import CONNECTION_CLOSED
from era_kernels.kernels.channels import KernelChannels
from era_kernels.kernels.control_client import ControlClient
from era_kernels.kernels.control_requests import ControlRequests
from era_kernels.kernels.dialects import FenceDialect, JupyterDialect
from era_kernels.kernels.interrupt_escalation import InterruptEscalation
from era_kernels.kernels.receive_budget import ReceiveBudget
from era_kernels.kernels.socket_connector import AcceptChannel, ConnectPort
from era_kernels.kernels.wire_protocol import ConnectionInfo, Message
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    InputRequest,
    InterruptStep,
    JsonObject,
    KernelRequest,
    Output,
    Stderr,
)

log = logging.getLogger(__name__)

InterruptMode = Literal["signal", "message"]


class MachineHandle(Protocol):
    """Names what a kernel needs of the machine that it runs in."""

    ended: asyncio.Future[ExitInfo]

    async def signal(self, number: int) -> None:
        """Sends a signal to the kernel's process group; does nothing when the kernel has ended."""

    async def aclose(self, reason: str | None = None) -> None:
        """Ends everything in the machine; `ended` has the reason at once."""

    def take_stderr(self) -> str:
        """Returns what the process wrote to its own stderr since the last call; bounded."""


class Kernel:
    """Represents a kernel in the server. It runs one request at a time.

    `on_late_output` is called with output that belongs to no current run: what threads, old
    children and timers print afterwards, and what an abandoned run still prints; at last with how
    the kernel ended, when no run reports it. `closed` is done when nothing more can come from it.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        machine: MachineHandle,
        interrupt_mode: InterruptMode = "signal",
        timeouts: KernelTimeouts | None = None,
        dump_signal: int | None = None,
        receive_budget: ReceiveBudget | None = None,
        *,
        has_fence: bool = True,
        connect_port: ConnectPort | None = None,
        accept_channel: AcceptChannel | None = None,
    ) -> None:
        """All kernels share `receive_budget`. With `has_fence` it ends each run with a fence.

        `connect_port` connects to a TCP port in the machine, for a kernel that speaks tcp;
        `accept_channel` accepts the connections of one that connects to the server.
        """
        self._dialect = FenceDialect() if has_fence else JupyterDialect()
        self.on_late_output: Callable[[list[Output]], None] = discard_output
        self._machine = machine
        self._interrupt_mode = interrupt_mode
        self._timeouts = timeouts or KernelTimeouts()
        self._run: ActiveRun | None = None
        # The escalation of that run, and the task that it runs in.
        self._escalation: tuple[InterruptEscalation, asyncio.Task[None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # escalations and machine ends under way
        self._connection_lost_task: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drain_timer: IdleTimer | None = None  # after the end, while late output is on its way
        self._heard_on: set[str] = set()  # the channels, of shell and iopub, until it is ready
        self._ready = asyncio.Event()
        self._control_requests = ControlRequests(self._request_control)
        self._channels = KernelChannels(
            connection_info,
            self._on_shell,
            self._on_iopub,
            self._control_requests.on_message,
            self._on_stdin,
            self._on_connection_lost,
            receive_budget,
            connect_port,
            accept_channel,
        )
        dump = (connection_info.dump_file, dump_signal)
        self.control = ControlClient(self._control_requests, machine.signal, *dump)
        machine.ended.add_done_callback(self._on_machine_ended)

    @property
    def dropped_count(self) -> int:
        """The number of messages that were dropped because they made no sense."""
        return self._channels.dropped_count

    async def wait_ready(self, timeout: float) -> None:
        """Waits until the kernel answers on shell and a message has come on iopub.

        Raises KernelStartFailed when it ends before, or is not ready after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._ready.is_set():
                    self._request_kernel_info()
                    await within_timeout(self._ready.wait(), self._timeouts.probe_interval)
        except TimeoutError as error:
            raise KernelStartFailed(
                f"The kernel was not ready within {timeout:g} seconds."
            ) from error
        if self._machine.ended.done():
            description = self._machine.ended.result().description
            raise KernelStartFailed(f"The kernel ended before it was ready: {description}.")

    async def execute(
        self, request: KernelRequest
    ) -> AsyncGenerator[list[Output | ExecutionEnd], None]:
        """Runs a request; yields batches of output, at the end of the last one an `ExecutionEnd`.

        The `ExecutionEnd` also reports a kernel that has ended or ends meanwhile: that is not
        raised. A consumer that leaves early abandons the run: the run goes on in the kernel until
        it ends by itself, is interrupted or reaches its deadline, its output is late output, and
        the next request waits for it. To end it sooner is up to the caller.
        """
        while self._run is not None and not self._run.finished.done():
            await asyncio.wait([self._run.finished])
        if self._machine.ended.done():
            exit_info = self._machine.ended.result()
            yield [ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info)]
            return
        run = self._run = self._start_run(request)
        async with aclosing(run.batches()) as batches:
            async for batch in batches:
                if run.finished.done():
                    await self._wait_for_interrupts()
                yield batch
                del batch  # it may be large, and the next one may come in an hour

    async def interrupt(self) -> None:
        """Interrupts the running program once, as the kernelspec says, without any promise."""
        if self._interrupt_mode == "signal":
            await self._machine.signal(signal.SIGINT)
        else:
            # Its reply is waited for, so that it does not hit a later run.
            with suppress(KernelSilent):
                await self._control_requests.request(
                    "interrupt_request", {}, self._timeouts.interrupt_reply
                )

    async def escalate_interrupt(self, request: KernelRequest) -> Sequence[InterruptStep]:
        """Ends the run of that request, and no other, by an escalation; returns the steps it took.

        Returns when the run is over: interrupted, or ended with its machine. An escalation that
        the deadline or another caller began before is shared. Returns no steps when the run is
        over or has not started yet.
        """
        run = self._run
        if run is None or run.request is not request or run.finished.done():
            return []
        if self._escalation is None:
            run.interrupted = True
            self._escalation = self._start_escalation(run, EndReason.INTERRUPTED)
        escalation, escalation_task = self._escalation
        futures: set[asyncio.Future[Any]] = {escalation_task, run.finished}
        await asyncio.wait(futures)
        return escalation.steps

    # ------------------------------------------------------------ what goes to the kernel

    def _start_run(self, request: KernelRequest) -> ActiveRun:
        self._escalation = None
        self.control.set_request(request)
        self._machine.take_stderr()  # drops what is from before the run
        run = self._dialect.run_class(
            request,
            secrets.token_hex(16),
            self._channels.iopub,
            self._timeouts,
            self._close_machine,
        )
        self._send_request(run)
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(request.timeout, self._on_deadline, run)
        run.finished.add_done_callback(lambda _: deadline.cancel())
        if self._dialect.answers_own_requests:
            on_owed = partial(self._close_machine, NOT_ANSWERING)
            AnswerWatch(run, self._channels.iopub, self._control_requests, on_owed)
        return run

    def _send_request(self, run: ActiveRun) -> None:
        content = message_events.execute_request(run.request, run.nonce)
        run.msg_id = self._channels.request(self._channels.shell, *content)

    def _request_control(self, msg_type: str, content: JsonObject) -> str:
        return self._channels.request(self._channels.control, msg_type, content)

    def _request_kernel_info(self) -> None:
        self._channels.request(self._channels.shell, "kernel_info_request", {})

    # ------------------------------------------------------------ what comes from the kernel

    def _on_shell(self, message: Message) -> None:
        run = self._run
        if message.msg_type == "kernel_info_reply":
            self._on_kernel_info_reply()
        elif (
            run is not None
            and message.msg_type == "execute_reply"
            and message.parent_id == run.msg_id
        ):
            reply = message_events.parse_reply(message.content)
            if reply is None:
                self._channels.count_dropped("a reply has the wrong shape")
            else:
                if reply.fault is not None:
                    self._channels.count_fault(reply.fault)
                if self._dialect.takes_back(run, reply):
                    again = partial(self._request_again, run, reply)
                    asyncio.get_running_loop().call_later(self._timeouts.refused, again)
                else:
                    run.on_reply(reply)

    def _request_again(self, run: ActiveRun, refusal: message_events.Reply) -> None:
        if run.timed_out or run.interrupted:
            run.on_reply(refusal)
            run.on_fence()
        elif not run.finished.done() and not self._machine.ended.done():
            self._send_request(run)

    def _on_stdin(self, message: Message) -> None:
        """Ignores the message: programs ask for input by iopub, in order with their output."""

    def _on_iopub(self, message: Message) -> None:
        self._note_heard("iopub")
        run = self._run
        if run is not None and self._dialect.ends_output(message, run):
            run.on_fence()
        elif self._dialect.is_output(message):
            self._on_output(message)

    def _on_output(self, message: Message) -> None:
        event = self._dialect.to_event(message)
        if event is None:
            self._channels.count_dropped("an output has the wrong shape")
        elif self._run is not None and self._run.accepts(message.parent_id):
            self._run.add_output(event, message.size)
        elif isinstance(event, InputRequest):
            self.control.send_eof(event.key)  # no consumer follows what is left of a run
        else:
            if self._run is not None:
                self._run.on_late_output()
            if self._drain_timer is not None:
                self._drain_timer.touch()
            self.on_late_output([event])

    def _on_kernel_info_reply(self) -> None:
        self._note_heard("shell")
        if not self._ready.is_set():
            # The kernel answered before it took the subscription. With its next answer it also
            # publishes on iopub.
            asyncio.get_running_loop().call_later(
                self._timeouts.iopub_probe_interval, self._request_kernel_info
            )

    def _note_heard(self, channel: str) -> None:
        if not self._ready.is_set():
            self._heard_on.add(channel)
            if len(self._heard_on) == 2:
                self._ready.set()

    # ------------------------------------------------------------ how runs end

    def _on_deadline(self, run: ActiveRun) -> None:
        if not run.has_program_ended and self._escalation is None:
            run.timed_out = True
            self._escalation = self._start_escalation(run, EndReason.TIMEOUT)

    def _start_escalation(
        self, run: ActiveRun, reason: EndReason
    ) -> tuple[InterruptEscalation, asyncio.Task[None]]:
        async def close_machine() -> None:
            await self._machine.aclose(reason)

        escalation = InterruptEscalation(
            run.finished,
            (self._timeouts.second_interrupt, self._timeouts.kill),
            self.interrupt,
            close_machine,
            is_ending=lambda: run.has_program_ended,
            nudge=self._request_kernel_info,
        )
        return escalation, self._spawn(escalation.run())

    def _close_machine(self, reason: str) -> None:
        self._spawn(self._machine.aclose(reason))

    def _on_machine_ended(self, ended: asyncio.Future[ExitInfo]) -> None:
        self._control_requests.close()
        run, exit_info = self._run, ended.result()
        if run is not None and not run.finished.done():
            run.on_machine_ended(exit_info, self._machine.take_stderr)
            run.finished.add_done_callback(lambda _: self._close_channels())
        elif not self._ready.is_set() or exit_info.is_intended:
            self._close_channels()
        else:
            self._drain_timer = IdleTimer(self._timeouts.drain, self._report_death)
            if self._channels.iopub.is_closed:
                self._report_death()
            asyncio.get_running_loop().call_later(self._timeouts.max_drain, self._report_death)
        self._ready.set()

    def _on_connection_lost(self, reason: str) -> None:
        if self._channels.iopub.is_closed:
            self._on_iopub_closed()
        self._connection_lost_task = asyncio.create_task(self._close_unless_exiting(reason))
        self._connection_lost_task.add_done_callback(self._on_task_done)

    async def _close_unless_exiting(self, reason: str) -> None:
        """Kills the machine after its connection broke, unless the kernel is exiting by itself.

        Such a kernel gets time to finish. It closes its sockets before it ends, and iopub last,
        when all of its output has been received.
        """
        iopub, ended = self._channels.iopub, self._machine.ended
        while reason == CONNECTION_CLOSED and not ended.done():
            received_before = iopub.received_bytes
            await asyncio.wait([ended], timeout=self._timeouts.exit)
            if iopub.received_bytes == received_before and not iopub.is_paused:
                break
        if not ended.done():
            log.warning("the connection to a kernel was lost", extra={"why": reason})
            await self._machine.aclose(reason)

    def _on_iopub_closed(self) -> None:
        """Ends all waiting for output: nothing comes on iopub any more."""
        if self._run is not None:
            self._run.on_iopub_closed()
        if self._drain_timer is not None:
            self._report_death()

    def _report_death(self) -> None:
        """Reports as late output how the kernel ended, after its own output, when no run does."""
        if not self.closed.done():
            description = self._machine.ended.result().description
            text = f"{self._machine.take_stderr()}The kernel's process ended: {description}.\n"
            self.on_late_output([Stderr(text)])
            self._close_channels()

    def _close_channels(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._channels.close()
        if not self.closed.done():
            self.closed.set_result(None)

    async def _wait_for_interrupts(self) -> None:
        """Waits for escalations: an interrupt that is on its way must not hit the next run."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a kernel could not be stopped", exc_info=task.exception())


def discard_output(events: list[Output]) -> None:
    """Discards late output, as long as no other callback is set."""

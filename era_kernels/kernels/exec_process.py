"""Runs a program beside the kernel: its output becomes events, its end the last of them.

The program is the leader of a process group. Its two outputs are pipes: output that a slow consumer
has not taken makes it wait. It is over when its own process is; children that still hold the pipes
are read for a moment, and may go on.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from era_kernels.concurrency.waiting import ends_within, within_timeout
from era_kernels.kernels.interrupt_escalation import InterruptEscalation
from era_kernels.kernels.sandbox_interface import SandboxProcess
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    InterruptStep,
    Output,
    Stderr,
    Stdout,
)

log = logging.getLogger(__name__)

EXIT_NOT_FOUND = 127  # the code of shells for a program that is not there
EXIT_NOT_EXECUTABLE = 126  # and for a program that cannot be run


@dataclass(frozen=True, slots=True)
class ExecTimeouts:
    """Holds how long a program is waited for, in seconds."""

    batch_interval: float = 0.02  # between two batches of its output
    # From the first interrupt to the second; at the program's deadline, to its end.
    second_interrupt: float = 0.5
    kill: float = 2.5  # from the second interrupt to the end
    close_machine: float = 5.0  # from the end to that of the whole machine
    drain: float = 0.05  # of silence after the program's end, while children hold its outputs
    max_drain: float = 0.5  # for the same when there is no silence


class ExecHost(Protocol):
    """Names what a program needs of the machine that it runs in."""

    @property
    def is_running(self) -> bool:
        """True while programs can run in the machine."""

    async def exit_info_for_commands(self) -> ExitInfo:
        """Returns how the machine ended, in words for programs that ended with it."""

    async def aclose(self, reason: str | None = None) -> None:
        """Ends everything in the machine."""


class ExecProcess:
    """Represents one running program."""

    def __init__(
        self,
        process: SandboxProcess,
        readable: asyncio.Event,
        machine: ExecHost,
        on_late_output: Callable[[list[Output]], None],
        timeouts: ExecTimeouts | None = None,
    ) -> None:
        """`readable` is the event that the process was started with.

        `on_late_output` is called with what its children print after its end.
        """
        self._process = process
        self._readable = readable
        self._machine = machine
        self._on_late_output = on_late_output
        self._timeouts = timeouts or ExecTimeouts()
        self._ended = process.ended
        self._ended.add_done_callback(lambda _: readable.set())
        self._streams = (
            (process.stdout, Stdout, _make_decoder()),
            (process.stderr, Stderr, _make_decoder()),
        )
        self._kill_reason: str | None = None  # the reason why the server killed it
        self._timed_out = False
        self._escalation: asyncio.Task[list[InterruptStep]] | None = None
        self._deadline_task: asyncio.Task[None] | None = None

    async def events(self, timeout: float) -> AsyncGenerator[list[Output | ExecutionEnd], None]:
        """Yields batches of output as they come, at the end of the last one an `ExecutionEnd`.

        Past `timeout` seconds the program is ended. What it or its children print when the
        consumer has left is late output.
        """
        deadline = asyncio.get_running_loop().call_later(timeout, self._on_deadline)
        try:
            while self._process.is_running:
                await self._readable.wait()
                self._readable.clear()
                if batch := self._read_batch():
                    yield batch
                    await asyncio.wait([self._ended], timeout=self._timeouts.batch_interval)
            deadline.cancel()
            await self._drain()
            yield [*self._read_batch(final=True), await self._make_finished()]
        finally:
            deadline.cancel()
            for stream, kind, _ in self._streams:
                stream.detach(partial(self._forward_late, kind, _make_decoder()))

    async def interrupt(self) -> list[InterruptStep]:
        """Interrupts the program, again if it goes on, then kills it; returns the steps it took.

        Other callers meanwhile wait for the same steps. The program is over soon after this.
        """
        if self._escalation is None:
            self._escalation = asyncio.create_task(self._escalate())
        return await asyncio.shield(self._escalation)

    async def kill(self, reason: str) -> None:
        """Kills the process group; where even that does not help, ends the machine."""
        self._kill_reason = self._kill_reason or reason
        await self._process.signal(signal.SIGKILL)
        if not await ends_within(self._ended, self._timeouts.close_machine):
            log.error("a program could not be ended", extra={"why": reason})
            await self._machine.aclose(reason)

    # ------------------------------------------------------------ its output

    def _read_batch(self, final: bool = False) -> list[Output | ExecutionEnd]:
        batch: list[Output | ExecutionEnd] = []
        for stream, kind, decoder in self._streams:
            if text := decoder.decode(stream.read_available(), final):
                batch.append(kind(text))
        return batch

    def _forward_late(
        self, kind: type[Stdout | Stderr], decoder: codecs.IncrementalDecoder, chunk: bytes
    ) -> None:
        if text := decoder.decode(chunk):
            self._on_late_output([kind(text)])

    async def _drain(self) -> None:
        """Waits a moment for what the program's children may still print after its end."""
        deadline = asyncio.get_running_loop().time() + self._timeouts.max_drain
        self._readable.clear()
        while any(stream.is_open for stream, _, _ in self._streams):
            if asyncio.get_running_loop().time() > deadline:
                return
            if not await within_timeout(self._readable.wait(), self._timeouts.drain):
                return
            self._readable.clear()

    # ------------------------------------------------------------ its end

    def _on_deadline(self) -> None:
        if self._process.is_running:
            self._timed_out = True
            self._deadline_task = asyncio.create_task(self._end_at_deadline())

    async def _end_at_deadline(self) -> None:
        """Interrupts the program and kills its whole process group with it."""
        await self._process.signal(signal.SIGINT, kill_group_on_exit=True)
        if not await ends_within(self._ended, self._timeouts.second_interrupt):
            await self.kill(EndReason.TIMEOUT)

    async def _escalate(self) -> list[InterruptStep]:
        escalation = InterruptEscalation(
            self._ended,
            (self._timeouts.second_interrupt, self._timeouts.kill),
            partial(self._process.signal, signal.SIGINT),
            partial(self.kill, EndReason.INTERRUPTED),
            is_ending=self._ended.done,
        )
        await escalation.run()
        return escalation.steps

    async def _make_finished(self) -> ExecutionEnd:
        exit_info = await asyncio.shield(self._ended)
        state = "preserved"
        if not self._machine.is_running:
            state = "lost"
            if exit_info.code is None:
                exit_info = await self._machine.exit_info_for_commands()
        elif exit_info.signal == signal.SIGKILL and self._kill_reason is not None:
            exit_info = ExitInfo(reason=self._kill_reason)
        reported = exit_info if exit_info.code is None else None
        code = 130 if exit_info.reason == EndReason.INTERRUPTED else exit_info.exit_code
        return ExecutionEnd(
            124 if self._timed_out else code,
            state=state,
            exit_info=reported,
            timed_out=self._timed_out,
            interrupted=self._escalation is not None,
        )


class FailedExec:
    """Reports, as a shell does, a program that could not start: a text on stderr, an exit code."""

    def __init__(self, finished: ExecutionEnd, stderr: str = "") -> None:
        self._finished = finished
        self._stderr = stderr

    @classmethod
    def from_os_error(cls, name: str, reason: str, error_number: int) -> FailedExec:
        """Returns the report of a program that the system refused to start, with that errno."""
        code = (
            EXIT_NOT_FOUND if error_number in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE
        )
        if error_number and reason.endswith(name):  # the path where it was looked for last
            reason = os.strerror(error_number)
        return cls(ExecutionEnd(code), f"{name}: {reason}\n")

    async def events(self, timeout: float) -> AsyncGenerator[list[Output | ExecutionEnd], None]:
        """Yields the report as one batch."""
        output: list[Output | ExecutionEnd] = [Stderr(self._stderr)] if self._stderr else []
        yield [*output, self._finished]

    async def interrupt(self) -> list[InterruptStep]:
        """Returns no steps: there is nothing to interrupt."""
        return []

    async def kill(self, reason: str) -> None:
        """Does nothing: there is no process."""


def _make_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")

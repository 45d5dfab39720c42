"""Holds the state of one queued or running execution, which alone changes it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeAlias

from era_kernels.concurrency.single_flight import SingleFlight
from era_kernels.errors import EraError
from era_kernels.kernels.control_client import ControlClient
from era_kernels.models import Execution, ExecutionStatus, InterruptStep, LoggedEvent, now
from era_kernels.services.executions.feed import EventFeed
from era_kernels.services.executions.result import ResultBuilder, RunResult
from era_kernels.services.executions.stdin import StdinBroker
from era_kernels.storage.execution_log import ExecutionLog

# Ends an execution that has not reached its process. Returns the steps by which it ended a process
# that was just being started, if any.
EarlyCancel: TypeAlias = Callable[[], Awaitable[Sequence[InterruptStep] | None]]
# Waits until there is memory for a result of about that many bytes.
WaitForMemory: TypeAlias = Callable[[int], Awaitable[None]]


class Cancellation:
    """Cancels one execution, once: all callers wait for the same task and get the same steps."""

    def __init__(self, cancel_early: EarlyCancel, finished: asyncio.Event) -> None:
        """Takes the event `finished`, which is set at the end of the execution."""
        self.requested = asyncio.Event()  # from now on the kernel must not get the run
        self._cancel_early = cancel_early
        self._finished = finished
        self._interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]] | None = None
        self._task: asyncio.Task[Sequence[InterruptStep]] | None = None

    @property
    def had_process(self) -> bool:
        """True from just before its code may run."""
        return self._interrupt is not None

    def attach(self, interrupt: Callable[[], Awaitable[Sequence[InterruptStep]]]) -> None:
        """Takes `interrupt`, which ends the execution in its process, and nothing else there."""
        self._interrupt = interrupt

    async def __call__(self) -> Sequence[InterruptStep]:
        """Cancels the execution; returns the steps taken once it has ended, the last being `ended`.

        The cancellation goes on when its callers are cancelled.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._cancel())
        return await asyncio.shield(self._task)

    async def _cancel(self) -> Sequence[InterruptStep]:
        began_at = time.monotonic()
        self.requested.set()
        if self._interrupt is not None:
            steps = await self._interrupt()
        else:
            steps = await self._cancel_early() or [InterruptStep("cancel", 0.0)]
        await self._finished.wait()
        return [*steps, InterruptStep("ended", time.monotonic() - began_at)]


async def do_not_wait(_: int) -> None:
    """Does nothing: there is memory."""


async def do_nothing() -> None:
    """Does nothing: most executions go on when their client leaves."""


class LiveExecution(EventFeed):
    """A queued or running execution. Others read its state and call methods; none assigns to it.

    `execution` are its present values; `error` is why it reached no kernel, or lost its log.
    """

    def __init__(
        self,
        execution: Execution,
        log: ExecutionLog,
        max_result_bytes: int,
        cancel_early: EarlyCancel = do_nothing,
        *,
        is_command: bool = False,
    ) -> None:
        """`is_command`: it is a program beside the kernel, not a run."""
        super().__init__(log)
        self.id = execution.id
        self.session_id = execution.session_id
        self.execution = execution
        self.error: EraError | None = None
        # Ends this execution alone, and returns the steps that were taken.
        self.interrupt = Cancellation(cancel_early, self.finished)
        self.stdin = StdinBroker()
        self.control: ControlClient | None = None  # of its kernel, while the kernel runs it
        self.is_command = is_command
        self._on_abandoned: Callable[[], Awaitable[object]] = do_nothing
        self._caller_count = 0
        self._result = SingleFlight(self._build_result, ends_with_callers=True)
        self.max_result_bytes = max_result_bytes

    # ------------------------------------------------------------ its callers

    def when_abandoned(self, action: Callable[[], Awaitable[object]]) -> None:
        """Has `action` called when the last caller leaves before the end."""
        self._on_abandoned = action

    def add_caller(self) -> None:
        """Counts one more caller that waits for the end."""
        self._caller_count += 1

    async def remove_caller(self) -> None:
        """Counts a caller that left before the end; abandons the run when it was the last."""
        self._caller_count -= 1
        if not self._caller_count:
            await self._on_abandoned()

    # ------------------------------------------------------------ its state

    def set_position(self, position: int) -> None:
        """Notes how many runs are before this one in the queue."""
        self.execution = dataclasses.replace(self.execution, position=position or None)

    def start(self) -> None:
        """Notes that it is its turn: its kernel may still have to start."""
        self.execution = dataclasses.replace(
            self.execution, status=ExecutionStatus.RUNNING, started_at=now(), position=None
        )

    @contextmanager
    def attach(self, control: ControlClient) -> Iterator[None]:
        """Connects it with its kernel: for input() requests, and for stack and variables."""
        self.control = control
        try:
            with self.stdin.attach(control):
                yield
        finally:
            self.control = None

    def fail(self, error: EraError) -> None:
        """Notes what failed in the server; the first error is the one that counts.

        It reached no process, lost its log, or what follows its end failed (the look at its files).
        Callers that wait for the result get the error.
        """
        self.error = self.error or error

    def finish(self, exit_code: int, cause: str | None) -> None:
        """Notes its end: no event comes any more."""
        self.execution = dataclasses.replace(
            self.execution,
            status=ExecutionStatus.FINISHED,
            finished_at=now(),
            exit_code=exit_code,
            cause=cause,
            position=None,
        )
        self.close()

    # ------------------------------------------------------------ its events

    async def follow_with_input(self, after: int = 0) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields what `follow` yields, to a reader that may answer the program's input requests."""
        with self.stdin.reader():
            async with aclosing(self.follow(after)) as batches:
                async for batch in batches:
                    yield batch
                    del batch

    async def result(self, _: WaitForMemory = do_not_wait) -> RunResult:
        """Waits for the end of the execution and returns its result, the same to all callers.

        Memory for it is not asked for: it is made once, while the execution goes on. It is no
        reader that answers input: without another one the program gets the end of input. Raises the
        domain error that `fail` noted.
        """
        return await self._result.run()

    async def _build_result(self) -> RunResult:
        builder = ResultBuilder(self.id, self.session_id, self.max_result_bytes)
        async with aclosing(self.follow()) as batches:
            async for batch in batches:
                await builder.add_cooperatively(item.event for item in batch)
                del batch
        if self.error is not None:
            raise self.error
        return builder.result()


async def partial_result(live: LiveExecution) -> tuple[Execution, RunResult]:
    """Returns the execution as it is now, and the result of its events so far."""
    execution, last_seq = live.execution, live.recent.last_seq
    builder, seq = ResultBuilder(live.id, live.session_id, live.max_result_bytes), 0
    async with aclosing(live.follow()) as batches:
        while seq < last_seq:
            batch = await anext(batches)
            await builder.add_cooperatively(item.event for item in batch if item.seq <= last_seq)
            seq = batch[-1].seq
    return execution, builder.result()

"""Carries an execution's output from its process to the log, then to its readers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

from era_kernels.errors import StorageFailed
from era_kernels.kernels.control_client import ControlClient
from era_kernels.kernels.exec_process import ExecProcess, FailedExec
from era_kernels.kernels.machine import Machine
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    InputRequest,
    KernelRequest,
    Output,
    format_size,
)
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.outcome import machine_ended

OUTPUT_LOST = "the output of the run could not be kept"


async def pump_kernel(
    execution: LiveExecution, machine: Machine, request: KernelRequest, max_bytes: int
) -> ExecutionEnd:
    """Runs the request, publishes its events, and returns how it ended.

    Ends a run whose log grows past `max_bytes`, and a run whose log cannot be written: code must
    not go on when its output cannot be seen.
    """
    try:
        with _attached(execution, machine.kernel.control):
            return await _pump_batches(
                execution, machine.kernel.execute(request), max_bytes, machine.aclose
            )
    except Exception as problem:
        await machine.aclose(OUTPUT_LOST)
        if not isinstance(problem, StorageFailed):
            raise
        execution.error = problem
        return machine_ended(machine.ended.result())


@contextmanager
def _attached(execution: LiveExecution, control: ControlClient) -> Iterator[None]:
    """Connects the execution with its kernel, for input() requests and for stack and variables."""
    execution.control = control
    try:
        with execution.stdin.attach(control):
            yield
    finally:
        execution.control = None


async def pump_command(
    execution: LiveExecution, process: ExecProcess | FailedExec, timeout: float, max_bytes: int
) -> ExecutionEnd:
    """Does for a command what `pump_kernel` does for a run; ends its process, not the machine."""
    try:
        return await _pump_batches(execution, process.events(timeout), max_bytes, process.kill)
    except Exception as problem:
        await process.kill(OUTPUT_LOST)
        if not isinstance(problem, StorageFailed):
            raise
        execution.error = problem
        exit_info = ExitInfo(reason=OUTPUT_LOST)
        return ExecutionEnd(exit_info.exit_code, exit_info=exit_info)


async def _pump_batches(
    execution: LiveExecution,
    stream: AsyncGenerator[list[Output | ExecutionEnd], None],
    max_bytes: int,
    terminate: Callable[[str], Awaitable[None]],
) -> ExecutionEnd:
    async with aclosing(stream) as batches:
        async for batch in batches:
            last = batch[-1]
            events = [
                event
                for event in batch
                if not isinstance(event, ExecutionEnd)
                and (not isinstance(event, InputRequest) or execution.stdin.offer(event))
            ]
            if events:
                await execution.publish(events)
            if isinstance(last, ExecutionEnd):
                return last
            if execution.log.size > max_bytes:
                await terminate(f"{EndReason.OUTPUT_LIMIT} {format_size(max_bytes)}")
            del batch, last, events  # they may be large, and the next may come in an hour
    raise RuntimeError("the events of a run ended without an end")

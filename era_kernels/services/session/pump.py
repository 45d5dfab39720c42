"""Carries an execution's output from its process to the log, then to its readers."""

from __future__ import annotations

from contextlib import aclosing, nullcontext

from era_kernels.errors import StorageFailed
from era_kernels.models import EndReason, ExecutionEnd, InputRequest, format_size
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.session.job import JobProcess

OUTPUT_LOST = "the output of the run could not be kept"


async def pump(execution: LiveExecution, process: JobProcess, max_bytes: int) -> ExecutionEnd:
    """Publishes the events of the process, and returns how it ended.

    Kills a process whose log grows past `max_bytes`, and one whose log cannot be written: code must
    not go on when its output cannot be seen.
    """
    control = process.control
    try:
        with nullcontext() if control is None else execution.attach(control):
            return await _pump_batches(execution, process, max_bytes)
    except Exception as problem:
        await process.kill(OUTPUT_LOST)
        if not isinstance(problem, StorageFailed):
            raise
        execution.fail(problem)
        return process.killed_end(OUTPUT_LOST)


async def _pump_batches(
    execution: LiveExecution, process: JobProcess, max_bytes: int
) -> ExecutionEnd:
    async with aclosing(process.events()) as batches:
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
                await process.kill(f"{EndReason.OUTPUT_LIMIT} {format_size(max_bytes)}")
            del batch, last, events  # they may be large, and the next may come in an hour
    raise RuntimeError("the events of a run ended without an end")

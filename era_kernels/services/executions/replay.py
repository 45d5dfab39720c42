"""Reads a finished execution from its log, and supplies the last event where the log lost it.

A log lacks its last event when the disk was full at that moment, or after a power loss. The index
of executions, which is safer, still knows that the execution ended, when, and how.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from era_kernels.models import (
    Done,
    ErrorEvent,
    Event,
    Execution,
    LoggedEvent,
    Session,
    lost_done,
    now,
)
from era_kernels.storage.log_reader import LogReader

END_LOST = ErrorEvent(
    "Output lost", "The rest of what this execution said could not be kept.", "STORAGE_FAILED"
)


async def replay(
    log: LogReader, execution: Execution, session: Session, after: int = 0
) -> AsyncGenerator[list[LoggedEvent], None]:
    """Yields batches of the events after a sequence number; the last event of all is `Done`.

    Raises ExecutionNotFound when the log is gone, StorageFailed.
    """
    batch: list[LoggedEvent] = []
    async with aclosing(log.read(after)) as batches:
        async for batch in batches:
            yield batch
    last = batch[-1] if batch else await log.last_event()
    if last is not None and isinstance(last.event, Done):
        return
    end = [END_LOST, _done_from_index(execution, session)]
    time = execution.finished_at or now()
    logged = [LoggedEvent(log.last_seq + n, time, event) for n, event in enumerate(end, 1)]
    if remaining := [item for item in logged if item.seq > after]:
        yield remaining


def _done_from_index(execution: Execution, session: Session) -> Event:
    """Makes the last event from the row in the index of executions."""
    started_at, finished_at = execution.started_at, execution.finished_at
    seconds = (
        max(0.0, (finished_at - started_at).total_seconds()) if started_at and finished_at else 0.0
    )
    return lost_done(
        execution,
        seconds,
        exit_code=execution.exit_code or 0,
        cause=execution.cause,
        kernel_generation=session.kernel_generation,
        data=session.data,
    )

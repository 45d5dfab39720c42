"""Replay: every finished execution has an end for its readers, whatever became of its log."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from era_kernels.models import Done, ErrorEvent, Event, Execution, ExecutionStatus, Session, now
from era_kernels.services.executions.replay import END_LOST
from era_kernels.services.executions.service import ExecutionService
from tests.storage.stores import Stores, done_event, make_execution, open_stores, output_lines


def _executions(stores: Stores) -> ExecutionService:
    return ExecutionService(
        stores.executions, max_kept=100, max_kept_bytes=1 << 30, max_result_bytes=1 << 20
    )


async def _ended(stores: Stores, session: Session, *events: Event) -> Execution:
    """Makes an execution that the index lists as ended, with only these events in its log."""
    execution = make_execution(session)
    log = await stores.executions.create(execution, session.directory, session.language)
    execution = dataclasses.replace(
        execution, status=ExecutionStatus.FINISHED, started_at=now(), finished_at=now(),
        exit_code=7, cause="exit 7",
    )  # fmt: skip
    await log.append(events)
    stores.executions.update_soon(execution, log)
    await log.aclose()
    return execution


async def _events(
    executions: ExecutionService, session: Session, after: int = 0
) -> list[tuple[int, Event]]:
    batches = executions.follow(session, "exec-1", after)
    return [(one.seq, one.event) async for batch in batches for one in batch]


async def test_an_end_that_is_not_in_the_log(tmp_path: Path) -> None:
    """An end that is not in the log is made from the index and tells that output was lost.

    It is the same from whatever event a reader goes on, and the result agrees with it.
    """

    async with open_stores(tmp_path) as stores:
        session = await stores.create_session(data={"a": 1}, kernel_generation=3)
        execution = await _ended(stores, session, *output_lines(3))
        executions = _executions(stores)
        found = await _events(executions, session)
        assert [seq for seq, _ in found] == [1, 2, 3, 4, 5]
        assert [event for _, event in found[:4]] == [*output_lines(3), END_LOST]
        end = found[-1][1]
        assert isinstance(end, Done)
        assert (end.exit_code, end.cause, end.state) == (7, "exit 7", "lost")
        assert (end.data, end.kernel_generation) == ({"a": 1}, 3)
        for after in range(1, 7):
            assert await _events(executions, session, after) == found[after:]
        found, result = await executions.result(session, "exec-1")
        assert found == execution
        assert (result.exit_code, result.cause, result.error) == (7, "exit 7", END_LOST)
        assert result.stdout == "line 0\nline 1\nline 2\n"


async def test_an_end_that_is_in_the_log(tmp_path: Path) -> None:
    """An end that is in the log is the only one, also for a reader that had it already."""

    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        end = done_event(make_execution(session))
        await _ended(stores, session, *output_lines(2), ErrorEvent("E", "m", "C"), end)
        executions = _executions(stores)
        found = await _events(executions, session)
        assert [event for _, event in found] == [
            *output_lines(2),
            ErrorEvent("E", "m", "C"),
            end,
        ]
        for after in range(6):
            assert await _events(executions, session, after) == found[after:]


async def test_a_log_of_which_nothing_is_left(tmp_path: Path) -> None:
    """When the log is empty, a reader still learns that the execution ended, and how."""

    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        await _ended(stores, session, *output_lines(2))
        os.truncate(stores.log_path(session, "exec-1"), 0)
        found = await _events(_executions(stores), session)
        assert [(seq, event.type) for seq, event in found] == [(1, "error"), (2, "done")]

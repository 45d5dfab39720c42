"""Rows that change several times within a moment: written once, with what was known last."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from era_kernels.models import Execution, ExecutionStatus, Session, now
from era_kernels.storage import executions_table, group_commit
from era_kernels.storage.execution_rows import ExecutionRows
from tests.storage.stores import Stores, make_execution, open_stores
from tests.waiting import until


def _started(execution: Execution) -> Execution:
    return dataclasses.replace(execution, status=ExecutionStatus.RUNNING, started_at=now())


def _finished(execution: Execution, exit_code: int = 0) -> Execution:
    return dataclasses.replace(
        execution, status=ExecutionStatus.FINISHED, finished_at=now(), exit_code=exit_code
    )


@asynccontextmanager
async def _open(path: Path) -> AsyncIterator[tuple[Stores, Session, ExecutionRows]]:
    async with open_stores(path) as stores:
        yield stores, await stores.create_session(), ExecutionRows(stores.database)


async def _trace(stores: Stores, statements: list[str] | None) -> None:
    """Notes each statement of the writer from now on; or no more."""
    await stores.database.write(
        lambda c: c.set_trace_callback(None if statements is None else statements.append)
    )


async def test_one_write_for_a_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Created, started and finished within a moment is one statement; all callers are told."""
    monkeypatch.setattr(group_commit, "GATHER_SECONDS", 60)
    statements: list[str] = []
    told: list[int] = []
    async with _open(tmp_path) as (stores, session, rows):
        await _trace(stores, statements)
        execution = make_execution(session)
        rows.write_soon(execution, directory=session.directory)
        rows.write_soon(_started(execution), 70)
        finished = _finished(_started(execution), 3)
        rows.write_soon(finished, 90, lambda _: told.append(1))
        rows.write_soon(finished, on_committed=lambda _: told.append(2))
        assert not told
        stores.database._writer._submit_gathered()
        await until(lambda: told == [1, 2])
        await _trace(stores, None)
        assert await stores.executions.get(session.id, execution.id) == finished
        size = await stores.database.read(
            lambda c: c.execute("SELECT size FROM executions").fetchone()
        )
        assert size == (90,)
        assert sum("executions" in one for one in statements) == 1


async def test_changes_after_the_first_write(tmp_path: Path) -> None:
    """Each later change is written, too, and what it does not say stays."""
    async with _open(tmp_path) as (stores, session, rows):
        execution = make_execution(session)
        rows.write_soon(execution, 40, directory=session.directory)
        for step in (_started, _finished):
            await stores.database.flush()
            execution = step(execution)
            rows.write_soon(execution)
        await stores.database.flush()
        assert await stores.executions.get(session.id, execution.id) == execution
        size = await stores.database.read(
            lambda c: c.execute("SELECT size FROM executions").fetchone()
        )
        assert size == (40,)


async def test_a_row_of_a_deleted_session(tmp_path: Path) -> None:
    """Nothing comes back when the session goes between the changes of a row."""
    async with _open(tmp_path) as (stores, session, rows):
        execution = make_execution(session)
        await stores.sessions.delete(session.id)
        rows.write_soon(execution, directory=session.directory)
        rows.write_soon(_finished(execution))
        await stores.create_session(session.id)
        assert await stores.executions.list_executions(session.id) == ([], 0)


async def test_any_interleaving(tmp_path: Path) -> None:
    """While the writer works, no change of many rows is lost, and every one is told once."""
    told: list[int] = []
    async with _open(tmp_path) as (stores, session, rows):
        executions = [make_execution(session, f"exec-{n}") for n in range(300)]
        for number, execution in enumerate(executions):
            rows.write_soon(execution, directory=session.directory)
            await asyncio.sleep(0.001 * (number % 7 == 0))
            rows.write_soon(_started(execution))
            await asyncio.sleep(0.001 * (number % 5 == 0))
            rows.write_soon(_finished(execution, number), 1, lambda _, n=number: told.append(n))
        await stores.database.flush()
        kept, _ = await stores.executions.list_executions(session.id)
        assert sorted(one.exit_code or 0 for one in kept) == list(range(300))
        assert sorted(told) == list(range(300))
        assert not rows._waiting


async def test_the_last_trim_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of trims within a moment, one is done, after the last row; another session has its own."""
    monkeypatch.setattr(group_commit, "GATHER_SECONDS", 60)
    done: list[str] = []

    def trim(name: str, directory: str, connection: sqlite3.Connection) -> list[str]:
        done.append(name)
        return executions_table.trim(name, directory, 1, 1 << 20, connection)

    async with _open(tmp_path) as (stores, session, rows):
        other = await stores.create_session("s2")
        for number in range(4):
            for one in (session, other):
                execution = _finished(make_execution(one, f"exec-{one.id}-{number}"))
                rows.write_soon(execution, directory=one.directory)
                rows.trim_soon(
                    one.directory,
                    lambda connection, one=one: trim(one.id, one.directory, connection),
                    lambda ids: None,
                )
        await stores.database.flush()
        assert done == ["s1", "s2"]
        for one in (session, other):
            kept, _ = await stores.executions.list_executions(one.id)
            assert [execution.id for execution in kept] == [f"exec-{one.id}-3"]
        assert not rows._last_trims


async def test_one_of_a_batch_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A write that fails among unawaited ones undoes itself alone, and they run once in effect."""
    async with _open(tmp_path) as (stores, session, rows):
        for number in range(3):
            rows.write_soon(make_execution(session, f"exec-{number}"), directory=session.directory)
            stores.database.write_soon(lambda c: c.execute("INSERT INTO nowhere VALUES (1)"))
        await stores.database.flush()
        _, total = await stores.executions.list_executions(session.id)
        assert total == 3
        assert len(caplog.records) == 3

"""Opens stores for the tests of the storage, with sessions and executions to put into them."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from era_kernels.models import (
    Done,
    Event,
    Execution,
    ExecutionStatus,
    LoggedEvent,
    Session,
    Stdout,
    now,
)
from era_kernels.storage.database import Database
from era_kernels.storage.execution_log import ExecutionLog, ExecutionStore
from era_kernels.storage.log_reader import LogReader
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.sessions import SessionStore
from era_kernels.storage.workspaces import Workspaces

ROOT = Path(__file__).parents[2]
CREATED_AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
LANGUAGE = "lingo"


@dataclass(frozen=True)
class Stores:
    """Every store, on one data directory."""

    path: Path
    database: Database
    sessions: SessionStore
    executions: ExecutionStore
    workspaces: Workspaces

    async def create_session(self, name: str = "s1", **fields: object) -> Session:
        """Creates a session with its directory."""
        session = Session(name, LANGUAGE, await self.workspaces.create(), now())
        session = dataclasses.replace(session, **fields)  # type: ignore[arg-type]
        await self.sessions.create(session)
        await self.workspaces.unfinished.keep(session.directory)
        return session

    async def create_finished_execution(
        self, session: Session, name: str, *events: Event, is_request: bool = False
    ) -> Execution:
        """Creates a finished execution of the session."""
        execution = dataclasses.replace(make_execution(session, name), is_request=is_request)
        log = await self.executions.create(execution, session.directory, LANGUAGE)
        await log.append([*events, done_event(execution)])
        execution = dataclasses.replace(
            execution, status=ExecutionStatus.FINISHED, finished_at=now(), exit_code=0
        )
        self.executions.update_soon(execution, log)
        await log.aclose()
        return execution

    def log_path(self, session: Session, name: str) -> Path:
        return self.path / "sessions" / session.directory / "executions" / f"{name}.jsonl"


@asynccontextmanager
async def open_stores(path: Path) -> AsyncIterator[Stores]:
    """Opens all stores, and closes them at the end."""
    sessions = path / "sessions"
    await asyncio.to_thread(sessions.mkdir, exist_ok=True)
    database = await Database.open(path / "era.db", MIGRATIONS)
    executions, workspaces = ExecutionStore(database, sessions), Workspaces(sessions)
    try:
        yield Stores(path, database, SessionStore(database), executions, workspaces)
    finally:
        await executions.aclose()
        await workspaces.aclose()
        await database.aclose()


def make_session(number: int, **fields: object) -> Session:
    """Makes one of many sessions, in the order of their numbers; it has no directory."""
    session = Session(
        f"s{number}", LANGUAGE, f"{number:016x}", CREATED_AT + timedelta(seconds=number)
    )
    return dataclasses.replace(session, **fields)  # type: ignore[arg-type]


def make_execution(session: Session, name: str = "exec-1") -> Execution:
    return Execution(name, session.id, "code", now())


def done_event(execution: Execution) -> Done:
    return Done(
        exit_code=0,
        duration="1.0ms",
        execution_time_ms=1.0,
        files_modified=0,
        session_id=execution.session_id,
        execution_id=execution.id,
        state="preserved",
        started_from="fresh",
        kernel_generation=1,
        queued_ms=0.0,
        start_ms=0.0,
        data={"n": 2**70},
    )


def output_lines(count: int, first: int = 0) -> list[Event]:
    """Returns so many short outputs, each a line with its number."""
    return [Stdout(f"line {number}\n") for number in range(first, first + count)]


async def read_events(log: LogReader | ExecutionLog, after: int = 0) -> list[LoggedEvent]:
    return [recorded async for batch in log.read(after) for recorded in batch]


async def read_text(log: LogReader, stream: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([piece async for piece in log.text(stream, start, stop)])


@contextmanager
def small_disk(path: Path, size: str = "1M") -> Iterator[Path]:
    """Mounts a file system of so many bytes, and unmounts it at the end."""
    disk = path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(disk)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mount(8) is missing, so no disk can be filled")
    if result.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {result.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

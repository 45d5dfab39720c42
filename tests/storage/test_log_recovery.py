"""After a crash: every execution has an end, whatever was lost, however often it is repaired."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from era_kernels.models import (
    Done,
    ErrorEvent,
    Execution,
    ExecutionStatus,
    Session,
    Stderr,
    Stdout,
    now,
)
from tests.storage.stores import (
    LANGUAGE,
    Stores,
    done_event,
    make_execution,
    open_stores,
    output_lines,
    read_events,
)

LINE = Stderr("[era] server stopped before the run ended; variables are lost\n")
STOPPED = ErrorEvent("Server stopped", "The server stopped during the run.", "SERVER_STOPPED")


async def _left_open(stores: Stores, session: Session, name: str, count: int = 3) -> Execution:
    """An execution whose server dies while it runs."""
    execution = make_execution(session, name)
    log = await stores.executions.create(execution, session.directory, LANGUAGE)
    execution = dataclasses.replace(execution, status=ExecutionStatus.RUNNING, started_at=now())
    stores.executions.update_soon(execution)
    await log.append(output_lines(count))
    await log.aclose()
    return execution


async def _end(stores: Stores, session: Session, name: str) -> Done:
    """Returns the end that readers and the index show, which must be the same."""
    log = await stores.executions.open_log(session.directory, name)
    recorded = await read_events(log)
    assert [one.seq for one in recorded] == list(range(1, len(recorded) + 1))
    assert [one.event.type for one in recorded].count("done") == 1
    last = recorded[-1].event
    assert isinstance(last, Done)
    row = await stores.executions.get(session.id, name)
    assert (row.status, row.exit_code) == (ExecutionStatus.FINISHED, last.exit_code)
    assert (row.cause, row.finished_at) == (last.cause, recorded[-1].time)
    return last


async def test_an_open_execution_is_closed(tmp_path: Path) -> None:
    """What was written stays; then come a line on stderr, SERVER_STOPPED and `done`: 137, lost."""
    async with open_stores(tmp_path) as stores:
        session = await stores.create_session(data={"a": 2**70}, kernel_generation=4)
        await _left_open(stores, session, "exec-1")
    async with open_stores(tmp_path) as stores:
        await stores.executions.close_unfinished()
        log = await stores.executions.open_log(session.directory, "exec-1")
        assert [one.event for one in await read_events(log)][:5] == [
            *output_lines(3),
            LINE,
            STOPPED,
        ]
        end = await _end(stores, session, "exec-1")
        assert (end.exit_code, end.state, end.cause) == (137, "lost", "server stopped")
        assert (end.kernel_generation, end.data) == (4, {"a": 2**70})
        assert (end.session_id, end.execution_id) == ("s1", "exec-1")


@pytest.mark.parametrize(
    "cut", ["nothing", "line", "done", "row", "torn done", "torn error", "header"]
)
async def test_a_crash_in_the_middle_of_the_repair(tmp_path: Path, cut: str) -> None:
    """Wherever the repair itself is killed, the next start finishes it, with one end."""
    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        await _left_open(stores, session, "exec-1")
        path = stores.log_path(session, "exec-1")
        whole = path.read_bytes()
        await stores.executions.close_unfinished()
        repaired = path.read_bytes().splitlines(keepends=True)
        torn = {
            "nothing": whole,
            "line": b"".join(repaired[:-2]),
            "done": b"".join(repaired[:-1]),
            "row": b"".join(repaired),
            "torn done": b"".join(repaired)[:-10],
            "torn error": whole + repaired[-2][:20],
            "header": repaired[0][:9],
        }
        path.write_bytes(torn[cut])
        await stores.database.write(
            lambda c: c.execute("UPDATE executions SET status = 'running'").rowcount
        )
    async with open_stores(tmp_path) as stores:
        await stores.executions.close_unfinished()
        end = await _end(stores, session, "exec-1")
        assert (end.exit_code, end.state) == (137, "lost")
        log = await stores.executions.open_log(session.directory, "exec-1")
        kinds = [one.event.type for one in await read_events(log)]
        assert kinds == (["stdout"] * 3 if cut != "header" else []) + ["stderr", "error", "done"]


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([Stdout("no newline")], LINE),
        ([Stderr("a\n"), Stdout("b")], LINE),
        ([Stderr("a\n"), Stderr("b"), Stdout("c\n" * 400_000)], Stderr("\n" + LINE.content)),
        ([Stderr("é" * 300_000), Stdout("c\n")], Stderr("\n" + LINE.content)),
        ([Stderr("Wai" * 200_000 + "\n"), Stdout("c")], LINE),
    ],
)
async def test_line_stands_for_itself(
    tmp_path: Path, events: list[Stdout | Stderr], line: Stderr
) -> None:
    """The server's line begins at the start of a line of stderr, whatever came after that."""
    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        log = await stores.executions.create(make_execution(session), session.directory, LANGUAGE)
        await log.append(events)
        await log.aclose()
    async with open_stores(tmp_path) as stores:
        await stores.executions.close_unfinished()
        log = await stores.executions.open_log(session.directory, "exec-1")
        assert [one.event for one in await read_events(log)][-3:-1] == [line, STOPPED]


async def test_a_finished_log_keeps_its_own_end(tmp_path: Path) -> None:
    """A run that had ended, only its row was lost, keeps its exit code; nothing is appended."""
    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        execution = make_execution(session)
        log = await stores.executions.create(execution, session.directory, LANGUAGE)
        end = dataclasses.replace(done_event(execution), exit_code=7, cause="exit 7")
        await log.append([Stdout("x"), end])
        await log.aclose()
        before = stores.log_path(session, "exec-1").read_bytes()
    async with open_stores(tmp_path) as stores:
        await stores.executions.close_unfinished()
        assert await _end(stores, session, "exec-1") == end
        assert stores.log_path(session, "exec-1").read_bytes() == before


async def test_logs_without_rows_and_rows_without_logs(tmp_path: Path) -> None:
    """A log without a row is listed again; a row without a log gets one with an end.

    A log without a whole header is removed; finished executions are left alone.
    """
    async with open_stores(tmp_path) as stores:
        session = await stores.create_session()
        finished = await stores.create_finished_execution(
            session, "exec-finished", *output_lines(2)
        )
        await _left_open(stores, session, "exec-no-log")
        stores.log_path(session, "exec-no-log").unlink()
        log = await stores.executions.create(
            make_execution(session, "exec-no-row"),
            session.directory,
            LANGUAGE,
            is_indexed=False,
        )
        await log.append(output_lines(2))
        await log.aclose()
        stores.log_path(session, "exec-torn").write_bytes(b'{"seq":0,"time":"20')
        stores.log_path(session, "exec-empty").write_bytes(b"")
    async with open_stores(tmp_path) as stores:
        await stores.executions.close_unfinished()
        rows, total = await stores.executions.list_executions("s1")
        assert total == 3
        assert {row.id for row in rows} == {"exec-finished", "exec-no-log", "exec-no-row"}
        assert await stores.executions.get("s1", "exec-finished") == finished
        for name in ("exec-no-log", "exec-no-row"):
            assert (await _end(stores, session, name)).exit_code == 137
        row = await stores.executions.get("s1", "exec-no-row")
        assert row.code == "code"
        header = json.loads(stores.log_path(session, "exec-no-log").read_bytes().split(b"\n")[0])
        assert (header["seq"], header["language"]) == (0, LANGUAGE)
        names = {path.stem for path in stores.log_path(session, "x").parent.iterdir()}
        assert names == {"exec-finished", "exec-no-log", "exec-no-row"}


async def test_a_session_without_a_directory(stores: Stores, session: Session) -> None:
    """Where nothing is left on disk, the row at least is closed."""
    await _left_open(stores, session, "exec-1")
    await stores.workspaces.remove(session.directory)
    await stores.executions.close_unfinished()
    row = await stores.executions.get("s1", "exec-1")
    assert (row.status, row.exit_code) == (ExecutionStatus.FINISHED, 137)
    await stores.executions.close_unfinished()

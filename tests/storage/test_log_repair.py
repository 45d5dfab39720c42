"""After a crash: every execution has an end, whatever was lost, however often it is repaired."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest

from era_kernels.models import Done, Execution, ExecutionStatus, Failure, Session, Stdout, now
from tests.storage.house import (
    LANGUAGE,
    House,
    an_execution,
    done,
    everything,
    lines,
    opened,
)

STOPPED = Failure("Server stopped", "The server stopped during the run.", "SERVER_STOPPED")


async def _left_open(house: House, session: Session, name: str, count: int = 3) -> Execution:
    """An execution whose server dies while it runs."""
    execution = an_execution(session, name)
    log = await house.executions.create(execution, session.directory, LANGUAGE)
    execution = dataclasses.replace(execution, status=ExecutionStatus.RUNNING, started_at=now())
    house.executions.update_soon(execution)
    await log.append(lines(count))
    await log.aclose()
    return execution


async def _end(house: House, session: Session, name: str) -> Done:
    """The end that readers and the index tell, which must be the same."""
    log = await house.executions.open_log(session.directory, name)
    recorded = await everything(log)
    assert [one.seq for one in recorded] == list(range(1, len(recorded) + 1))
    assert [one.event.type for one in recorded].count("done") == 1
    last = recorded[-1].event
    assert isinstance(last, Done)
    row = await house.executions.get(session.id, name)
    assert (row.status, row.exit_code) == (ExecutionStatus.FINISHED, last.exit_code)
    assert (row.cause, row.finished_at) == (last.cause, recorded[-1].time)
    return last


def test_an_open_execution_is_closed(tmp_path: Path) -> None:
    """What was written stays; then come SERVER_STOPPED and `done`: 137, lost, with the data."""

    async def body() -> None:
        async with opened(tmp_path) as house:
            session = await house.session(data={"a": 2**70}, kernel_generation=4)
            await _left_open(house, session, "exec-1")
        async with opened(tmp_path) as house:
            await house.executions.close_unfinished()
            log = await house.executions.open_log(session.directory, "exec-1")
            assert [one.event for one in await everything(log)][:4] == [*lines(3), STOPPED]
            end = await _end(house, session, "exec-1")
            assert (end.exit_code, end.state, end.cause) == (137, "lost", "server stopped")
            assert (end.kernel_generation, end.data) == (4, {"a": 2**70})
            assert (end.session_id, end.execution_id) == ("s1", "exec-1")

    asyncio.run(body())


@pytest.mark.parametrize("cut", ["nothing", "done", "row", "torn done", "torn error", "header"])
def test_a_crash_in_the_middle_of_the_repair(tmp_path: Path, cut: str) -> None:
    """Wherever the repair itself is killed, the next start finishes it, with one end."""

    async def body() -> None:
        async with opened(tmp_path) as house:
            session = await house.session()
            await _left_open(house, session, "exec-1")
            path = house.log_path(session, "exec-1")
            whole = path.read_bytes()
            await house.executions.close_unfinished()
            repaired = path.read_bytes().splitlines(keepends=True)
            torn = {
                "nothing": whole,
                "done": b"".join(repaired[:-1]),
                "row": b"".join(repaired),
                "torn done": b"".join(repaired)[:-10],
                "torn error": whole + repaired[-2][:20],
                "header": repaired[0][:9],
            }
            path.write_bytes(torn[cut])
            await house.database.write(
                lambda c: c.execute("UPDATE executions SET status = 'running'").rowcount
            )
        async with opened(tmp_path) as house:
            await house.executions.close_unfinished()
            end = await _end(house, session, "exec-1")
            assert (end.exit_code, end.state) == (137, "lost")
            log = await house.executions.open_log(session.directory, "exec-1")
            kinds = [one.event.type for one in await everything(log)]
            assert kinds == (["stdout"] * 3 if cut != "header" else []) + ["error", "done"]

    asyncio.run(body())


def test_a_finished_log_keeps_its_own_end(tmp_path: Path) -> None:
    """A run that had ended, only its row was lost, keeps its exit code; nothing is appended."""

    async def body() -> None:
        async with opened(tmp_path) as house:
            session = await house.session()
            execution = an_execution(session)
            log = await house.executions.create(execution, session.directory, LANGUAGE)
            end = dataclasses.replace(done(execution), exit_code=7, cause="exit 7")
            await log.append([Stdout("x"), end])
            await log.aclose()
            before = house.log_path(session, "exec-1").read_bytes()
        async with opened(tmp_path) as house:
            await house.executions.close_unfinished()
            assert await _end(house, session, "exec-1") == end
            assert house.log_path(session, "exec-1").read_bytes() == before

    asyncio.run(body())


def test_logs_without_rows_and_rows_without_logs(tmp_path: Path) -> None:
    """A log that is not listed is listed again; a row whose log is gone gets one with an end;
    what has not even a whole header is removed; finished ones are left alone."""

    async def body() -> None:
        async with opened(tmp_path) as house:
            session = await house.session()
            finished = await house.finished(session, "exec-finished", *lines(2))
            await _left_open(house, session, "exec-no-log")
            house.log_path(session, "exec-no-log").unlink()
            log = await house.executions.create(
                an_execution(session, "exec-no-row"), session.directory, LANGUAGE, indexed=False
            )
            await log.append(lines(2))
            await log.aclose()
            house.log_path(session, "exec-torn").write_bytes(b'{"seq":0,"time":"20')
            house.log_path(session, "exec-empty").write_bytes(b"")
        async with opened(tmp_path) as house:
            await house.executions.close_unfinished()
            rows, total = await house.executions.list_executions("s1")
            assert total == 3
            assert {row.id for row in rows} == {"exec-finished", "exec-no-log", "exec-no-row"}
            assert await house.executions.get("s1", "exec-finished") == finished
            for name in ("exec-no-log", "exec-no-row"):
                assert (await _end(house, session, name)).exit_code == 137
            row = await house.executions.get("s1", "exec-no-row")
            assert row.code == "code"
            header = json.loads(house.log_path(session, "exec-no-log").read_bytes().split(b"\n")[0])
            assert (header["seq"], header["language"]) == (0, LANGUAGE)
            names = {path.stem for path in house.log_path(session, "x").parent.iterdir()}
            assert names == {"exec-finished", "exec-no-log", "exec-no-row"}

    asyncio.run(body())


def test_a_session_without_a_directory(tmp_path: Path) -> None:
    """Where nothing is left on disk, the row at least is closed."""

    async def body() -> None:
        async with opened(tmp_path) as house:
            session = await house.session()
            await _left_open(house, session, "exec-1")
            await house.workspaces.remove(session.directory)
            await house.executions.close_unfinished()
            row = await house.executions.get("s1", "exec-1")
            assert (row.status, row.exit_code) == (ExecutionStatus.FINISHED, 137)
            await house.executions.close_unfinished()

    asyncio.run(body())

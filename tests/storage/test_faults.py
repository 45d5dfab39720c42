"""Faults for real: the server's process is killed, and nothing that was answered is lost."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from era_kernels.errors import SessionNotFound
from era_kernels.models import Done, ExecutionStatus
from tests.storage.stores import (
    ROOT,
    Stores,
    open_stores,
    output_lines,
    read_events,
    read_text,
)

# A server that does everything at once and reports, by a write of its own, what it has answered.
BUSY = """
import asyncio, dataclasses, json, os, sys
from pathlib import Path
from era_kernels.models import *
from tests.storage.stores import LANGUAGE, done_event, open_stores

def report(*fact):
    os.write(1, (json.dumps(fact) + "\\n").encode())

async def churn(stores, worker):
    for n in range(100_000):
        session = await stores.create_session(f"s{worker}-{n}", data={"n": n})
        report("created", session.id)
        await stores.sessions.update(session, data={"n": n, "x": "y" * (n % 5000)})
        report("updated", session.id, n % 5000)
        if n % 3 == 0:
            await stores.sessions.delete(session.id)
            report("deleted", session.id)
            await stores.workspaces.remove(session.directory)

async def runs(stores, session, worker):
    for n in range(100_000):
        execution = Execution(f"exec-{worker}-{n}", session.id, "code", now())
        log = await stores.executions.create(execution, session.directory, LANGUAGE)
        for m in range(1 + n % 7):
            await log.append([Stdout(f"{m}:" + "z" * (n * 37 % 3000) + "\\n")])
            report("appended", execution.id, log.text_bytes["stdout"])
        await log.append([dataclasses.replace(done_event(execution), exit_code=n % 100)])
        report("finished", execution.id, n % 100)
        stores.executions.update_soon(dataclasses.replace(
            execution, status=ExecutionStatus.FINISHED, finished_at=now(), exit_code=n % 100), log)
        await log.aclose()
        if n % 50 == 0:
            await stores.executions.trim(session.id, session.directory, 10**6, 1 << 40)

async def main():
    async with open_stores(Path(sys.argv[1])) as stores:
        session = await stores.sessions.find("runs") or await stores.create_session("runs")
        report("ready")
        stamp = sys.argv[2]
        await asyncio.gather(
            *(churn(stores, f"{stamp}-{w}") for w in range(4)),
            *(runs(stores, session, f"{stamp}-{w}") for w in range(3)))
asyncio.run(main())
"""


def _killed_server(path: Path, stamp: str, answers: int) -> list[list[object]]:
    """What a server had answered, in order; it is killed after so many answers."""
    server = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(path), stamp], cwd=ROOT, stdout=subprocess.PIPE
    )
    with server:
        assert server.stdout is not None
        assert json.loads(server.stdout.readline()) == ["ready"]
        lines = [server.stdout.readline() for _ in range(answers)]
        server.kill()
        lines += server.stdout.readlines()
        assert server.wait() == -signal.SIGKILL
    found = []
    for line in lines:
        with suppress(ValueError):  # the last one may be torn
            found.append(json.loads(line))
    return found


async def _check_sessions(stores: Stores, facts: list[list[object]]) -> None:
    last: dict[object, list[object]] = {}
    for fact in facts:
        if fact[0] in ("created", "updated", "deleted"):
            last[fact[1]] = fact
    newest = {str(name).rpartition("-")[0]: name for name in last}.values()
    for name, fact in last.items():
        try:
            session = await stores.sessions.get(str(name))
        except SessionNotFound:
            # Deleted, or its deletion was committed but not told any more.
            assert fact[0] == "deleted" or name in newest
            continue
        assert fact[0] != "deleted"
        if fact[0] == "updated":
            assert len(session.data.get("x", "")) == fact[2]


async def _check_runs(stores: Stores, facts: list[list[object]]) -> None:
    session = await stores.sessions.get("runs")
    appended = {fact[1]: fact[2] for fact in facts if fact[0] == "appended"}
    ended = {fact[1]: fact[2] for fact in facts if fact[0] == "finished"}
    for name, size in appended.items():
        row = await stores.executions.get("runs", str(name))
        assert row.status is ExecutionStatus.FINISHED
        log = await stores.executions.open_log(session.directory, str(name))
        events = await read_events(log)
        assert [one.seq for one in events] == list(range(1, len(events) + 1))
        assert len(await read_text(log, "stdout")) == log.text_bytes["stdout"] >= size
        end = events[-1].event
        assert isinstance(end, Done)
        assert end.exit_code == row.exit_code == ended.get(name, row.exit_code)
        assert name in ended or end.exit_code == 137 or len(events) > 1


@pytest.mark.parametrize(
    "rounds", [5, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
async def test_a_killed_server_loses_nothing_it_answered(tmp_path: Path, rounds: int) -> None:
    """After a SIGKILL at any time, sessions are as answered, and every appended output is there.

    Every execution has one end, and nothing half is left.
    """
    chance = random.Random(4)
    answered = set()
    for number in range(rounds):
        facts = _killed_server(tmp_path, str(number), chance.randrange(20, 600))
        async with open_stores(tmp_path) as stores:
            rows = await stores.database.read(
                lambda c: c.execute("PRAGMA integrity_check").fetchall()
            )
            assert rows == [("ok",)]
            await stores.executions.close_unfinished()
            sessions, _ = await stores.sessions.list_sessions()
            directories = {session.directory for session in sessions}
            deleted = await stores.sessions.deleted.names()
            await stores.workspaces.reconcile(directories, deleted)
            await _check_sessions(stores, facts)
            await _check_runs(stores, facts)
            left = {entry.name for entry in (tmp_path / "sessions").iterdir()}
            assert left == directories
            assert not (tmp_path / "lost+found").exists()
        answered |= {fact[0] for fact in facts}
    assert answered == {"created", "updated", "deleted", "appended", "finished"}


async def test_nothing_blocks_the_loop(tmp_path: Path) -> None:
    """No store makes a blocking call on the event loop."""
    with blockbuster_ctx("era_kernels"):
        async with open_stores(tmp_path) as stores:
            session = await stores.create_session()
            await stores.sessions.update(session, data={"a": 1})
            stores.sessions.update_soon(session, file_count=1)
            await stores.sessions.list_sessions()
            for size in (3, 30_000):
                lines = output_lines(size)
                execution = await stores.create_finished_execution(session, f"exec-{size}", *lines)
                log = await stores.executions.open_log(session.directory, execution.id)
                assert len(await read_events(log)) == size + 1
                await read_text(log, "stdout", 5, 10)
                await stores.executions.list_executions(session.id)
            await stores.executions.trim(session.id, session.directory, 1, 1)
            await stores.executions.close_unfinished()
            data_file = await stores.workspaces.write_data_file(session.directory, {}, None)
            snapshot = await stores.workspaces.scan(session.directory)
            await stores.workspaces.read_changes(session.directory, snapshot, data_file)
            await stores.workspaces.clear_files(session.directory)
            await stores.database.check()
            await stores.sessions.delete(session.id)
            await stores.workspaces.remove(session.directory)
            await stores.workspaces.reconcile(set())

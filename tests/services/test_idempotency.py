"""A run that is sent twice under one idempotency key runs once, also after a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import aclosing
from typing import Any

import pytest

from era_kernels.errors import (
    IdempotencyConflict,
    InsufficientStorage,
    KernelStartFailed,
    QueueFull,
    SessionNotFound,
)
from era_kernels.models import Done, Event, Submission
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.idempotency import FinishedExecution, IdempotentRuns
from tests.fakes import make_start_error
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services, failing

SECRET = b"s" * 32
KeyedExecution = LiveExecution | FinishedExecution


@pytest.fixture
def idempotent_runs(services: Services) -> IdempotentRuns:
    return IdempotentRuns(services.sessions, services.executions, SECRET)


async def submit_with_key(
    idempotent_runs: IdempotentRuns, code: str, key: str = "k", **fields: Any
) -> KeyedExecution:
    return await idempotent_runs.submit("s1", Submission(code, **fields), key, code.encode())


async def read_events(execution: KeyedExecution) -> list[Event]:
    async with aclosing(execution.follow_with_input()) as batches:
        return [item.event async for batch in batches for item in batch]


def requested_codes(services: Services) -> list[str]:
    return [one.code for machine in services.host.machines for one in machine.kernel.requests]


async def test_runs_once(services: Services, idempotent_runs: IdempotentRuns) -> None:
    """While it runs and afterwards, the key stands for the one execution."""
    await services.create()
    first = await submit_with_key(idempotent_runs, "out a\ngate open")
    again = await submit_with_key(idempotent_runs, "out a\ngate open")
    assert again is first
    assert await idempotent_runs.find("s1", "k", b"out a\ngate open") is first
    services.gates["open"].set()
    answer, events = await first.result(), await read_events(first)
    finished = await submit_with_key(idempotent_runs, "out a\ngate open")
    assert (finished.id, finished.session_id) == (first.id, "s1")
    assert await finished.result() == answer
    assert await read_events(finished) == events
    assert len(requested_codes(services)) == 1


async def test_many_at_once(services: Services, idempotent_runs: IdempotentRuns) -> None:
    """Whoever comes first runs; the others get the same execution."""
    await services.create()
    asked = await asyncio.gather(*(submit_with_key(idempotent_runs, "out a") for _ in range(20)))
    assert len({one.id for one in asked}) == 1
    assert {(await one.result()).stdout for one in asked} == {"a\n"}
    assert requested_codes(services) == ["out a"]


async def test_found_while_it_is_created(
    services: Services, idempotent_runs: IdempotentRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks when the key is stored, and the execution not yet known, waits for its end, too."""
    await services.create()
    store = services.executions._store
    create, is_stored = store.create, asyncio.Event()

    async def create_slowly(*args: Any, **fields: Any) -> Any:
        log = await create(*args, **fields)
        is_stored.set()
        await asyncio.sleep(0.1)
        return log

    monkeypatch.setattr(store, "create", create_slowly)
    first = asyncio.create_task(submit_with_key(idempotent_runs, "out a"))
    await is_stored.wait()
    assert await idempotent_runs.find("s1", "k", b"out a") is await first


async def test_caller_that_leaves_at_once(
    services: Services, idempotent_runs: IdempotentRuns
) -> None:
    """A caller that leaves before it has an answer has begun the one execution."""
    await services.create()
    leaving = asyncio.create_task(submit_with_key(idempotent_runs, "out a"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await (await submit_with_key(idempotent_runs, "out a")).result()).stdout == "a\n"
    assert requested_codes(services) == ["out a"]


async def test_other_body(services: Services, idempotent_runs: IdempotentRuns) -> None:
    """A key with another body is refused while the first runs and afterwards; nothing runs."""
    await services.create()
    first = await submit_with_key(idempotent_runs, "out a")
    for _ in range(2):
        with pytest.raises(IdempotencyConflict) as refusal:
            await submit_with_key(idempotent_runs, "out b")
        assert refusal.value.id == first.id
        await first.result()
    with pytest.raises(IdempotencyConflict):
        await idempotent_runs.find("s1", "k", b"out b")
    assert requested_codes(services) == ["out a"]


async def test_keys_are_a_sessions_own(services: Services, idempotent_runs: IdempotentRuns) -> None:
    """Another key, another session, and a new session under the old id run anew."""
    await services.create()
    first = await submit_with_key(idempotent_runs, "out a")
    assert (await submit_with_key(idempotent_runs, "out a", "l")).id != first.id
    await first.result()
    await services.sessions.delete("s1")
    with pytest.raises(SessionNotFound):
        await submit_with_key(idempotent_runs, "out a")
    await services.create()
    assert (await submit_with_key(idempotent_runs, "out b")).id != first.id


@pytest.fixture
def services_keeping_two(open_services: OpenServices) -> Services:
    return open_services(keep=2, max_queue=0)


async def test_keys_of_dropped_executions_are_free(services_keeping_two: Services) -> None:
    """The key of an execution that is not kept any more is free."""
    services = services_keeping_two
    idempotent_runs = IdempotentRuns(services.sessions, services.executions, SECRET)
    await services.create()
    first = await submit_with_key(idempotent_runs, "out a")
    await first.result()
    for name in "bc":
        await services.run(f"out {name}")
    again = await submit_with_key(idempotent_runs, "other")
    assert again.id != first.id


async def test_durable_before_code_runs(
    services: Services, idempotent_runs: IdempotentRuns
) -> None:
    """The key is in the database before any code runs, beside a digest that needs the secret."""
    await services.create()
    services.host.open_gate = asyncio.Event()
    first = await submit_with_key(idempotent_runs, "out a")
    with sqlite3.connect(services.path / "era.db") as database:
        [(key, digest)] = database.execute("SELECT idempotency_key, body_digest FROM executions")
    assert key == "k"
    assert len(digest) == 32
    services.host.open_gate.set()
    await first.result()
    another = IdempotentRuns(services.sessions, services.executions, b"t" * 32)
    with pytest.raises(IdempotencyConflict):  # the digest is worth nothing without its secret
        await submit_with_key(another, "out a")


# ---------------------------------------------------------------- what never ran


async def test_run_that_did_not_start_may_be_sent_again(
    services: Services, idempotent_runs: IdempotentRuns
) -> None:
    """A kernel that does not start frees the key: the same request runs when it can."""
    await services.create()
    services.host.open_error = make_start_error()
    first = await submit_with_key(idempotent_runs, "out a")
    with pytest.raises(KernelStartFailed):
        await first.result()
    assert (await (await submit_with_key(idempotent_runs, "out a")).result()).stdout == "a\n"


async def test_refused_runs_take_no_key(services_keeping_two: Services) -> None:
    """A queue that is full has taken nothing."""
    services = services_keeping_two
    idempotent_runs = IdempotentRuns(services.sessions, services.executions, SECRET)
    await services.create()
    running = await services.submit("listen")
    with pytest.raises(QueueFull):
        await submit_with_key(idempotent_runs, "out a")
    await services.until_running(1)
    await services.executions.interrupt("s1", running.id)
    assert (await (await submit_with_key(idempotent_runs, "other")).result()).exit_code == 0


async def test_key_that_cannot_be_kept(
    services: Services, idempotent_runs: IdempotentRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs whose key is not on disk, and no log is left of it."""
    await services.create()
    full = InsufficientStorage("There is no room.")
    monkeypatch.setattr(services.database, "write", failing(full))
    with pytest.raises(InsufficientStorage):
        await submit_with_key(idempotent_runs, "out a")
    monkeypatch.undo()
    directory = (await services.session()).directory
    assert list((services.path / "sessions" / directory / "executions").iterdir()) == []
    assert (await (await submit_with_key(idempotent_runs, "out a")).result()).stdout == "a\n"
    assert requested_codes(services) == ["out a"]


async def test_cancelled_run_keeps_its_key(
    services: Services, idempotent_runs: IdempotentRuns
) -> None:
    """A cancelled run keeps its key: the same request again does not make it run."""
    await services.create()
    first = await services.submit("listen")
    await services.until_running(1)
    waiting = await submit_with_key(idempotent_runs, "out a")
    await services.executions.interrupt("s1", waiting.id)
    again = await submit_with_key(idempotent_runs, "out a")
    assert (await again.result()).exit_code == 130
    assert isinstance((await read_events(again))[-1], Done)
    await services.executions.interrupt("s1", first.id)


async def test_callers_are_counted(services: Services, idempotent_runs: IdempotentRuns) -> None:
    """A finished execution counts no callers: leaving it has no effect."""
    await services.create()
    await (await submit_with_key(idempotent_runs, "out a")).result()
    finished = await submit_with_key(idempotent_runs, "out a")
    finished.add_caller()
    await finished.remove_caller()
    assert (await finished.result()).exit_code == 0
    await idempotent_runs.aclose()

"""A key of the caller's: the same run asked for twice runs once, also after a restart."""

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
from era_kernels.services.executions import Running
from era_kernels.services.repeats import Past, Repeats
from tests.fakes import start_failure
from tests.services.conftest import OpenServices
from tests.services.service_fixture import Services, failing

SECRET = b"s" * 32
Asked = Running | Past


@pytest.fixture
def repeats(services: Services) -> Repeats:
    return Repeats(services.sessions, services.executions, SECRET)


async def ask(repeats: Repeats, code: str, key: str = "k", **fields: Any) -> Asked:
    return await repeats.submit("s1", Submission(code, **fields), key, code.encode())


async def told(asked: Asked) -> list[Event]:
    async with aclosing(asked.listen()) as batches:  # type: ignore[type-var]
        return [item.event async for batch in batches for item in batch]


def requests(services: Services) -> list[str]:
    return [one.code for machine in services.host.machines for one in machine.kernel.requests]


@pytest.mark.gen_test
async def test_runs_once(services: Services, repeats: Repeats) -> None:
    """While it runs and afterwards, the key stands for the one execution."""
    await services.create()
    first = await ask(repeats, "out a\ngate open")
    again = await ask(repeats, "out a\ngate open")
    assert again is first
    assert await repeats.find("s1", "k", b"out a\ngate open") is first
    services.gates["open"].set()
    answer, events = await first.answer(), await told(first)
    past = await ask(repeats, "out a\ngate open")
    assert (past.id, past.session_id) == (first.id, "s1")
    assert await past.answer() == answer
    assert await told(past) == events
    assert len(requests(services)) == 1


@pytest.mark.gen_test
async def test_many_at_once(services: Services, repeats: Repeats) -> None:
    """Whoever comes first runs; the others get the same execution."""
    await services.create()
    asked = await asyncio.gather(*(ask(repeats, "out a") for _ in range(20)))
    assert len({one.id for one in asked}) == 1
    assert {(await one.answer()).stdout for one in asked} == {"a\n"}
    assert requests(services) == ["out a"]


@pytest.mark.gen_test
async def test_caller_that_leaves_at_once(services: Services, repeats: Repeats) -> None:
    """A caller that leaves before it has an answer has begun the one execution."""
    await services.create()
    leaving = asyncio.create_task(ask(repeats, "out a"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await (await ask(repeats, "out a")).answer()).stdout == "a\n"
    assert requests(services) == ["out a"]


@pytest.mark.gen_test
async def test_other_body(services: Services, repeats: Repeats) -> None:
    """It is refused while the first runs and afterwards, and nothing runs."""
    await services.create()
    first = await ask(repeats, "out a")
    for _ in range(2):
        with pytest.raises(IdempotencyConflict) as refusal:
            await ask(repeats, "out b")
        assert refusal.value.id == first.id
        await first.answer()
    with pytest.raises(IdempotencyConflict):
        await repeats.find("s1", "k", b"out b")
    assert requests(services) == ["out a"]


@pytest.mark.gen_test
async def test_keys_are_a_sessions_own(services: Services, repeats: Repeats) -> None:
    """Another key, another session, and a new session under the old id run anew."""
    await services.create()
    first = await ask(repeats, "out a")
    assert (await ask(repeats, "out a", "l")).id != first.id
    await first.answer()
    await services.sessions.delete("s1")
    with pytest.raises(SessionNotFound):
        await ask(repeats, "out a")
    await services.create()
    assert (await ask(repeats, "out b")).id != first.id


@pytest.fixture
def forgetful(open_services: OpenServices) -> Services:
    return open_services(keep=2, max_queue=0)


@pytest.mark.gen_test
async def test_keys_of_dropped_executions_are_free(forgetful: Services) -> None:
    """What is not kept any more cannot be answered: the key begins anew."""
    services = forgetful
    repeats = Repeats(services.sessions, services.executions, SECRET)
    await services.create()
    first = await ask(repeats, "out a")
    await first.answer()
    for name in "bc":
        await services.run(f"out {name}")
    again = await ask(repeats, "other")
    assert again.id != first.id


@pytest.mark.gen_test
async def test_durable_before_code_runs(services: Services, repeats: Repeats) -> None:
    """The key is in the database before any code runs, beside a digest that needs the secret."""
    await services.create()
    services.host.opening = asyncio.Event()
    first = await ask(repeats, "out a")
    with sqlite3.connect(services.path / "era.db") as database:
        [(key, digest)] = database.execute("SELECT idempotency_key, body_digest FROM executions")
    assert key == "k"
    assert len(digest) == 32
    services.host.opening.set()
    await first.answer()
    another = Repeats(services.sessions, services.executions, b"t" * 32)
    with pytest.raises(IdempotencyConflict):  # the digest is worth nothing without its secret
        await ask(another, "out a")


# ---------------------------------------------------------------- what never ran


@pytest.mark.gen_test
async def test_what_did_not_run_may_be_asked_for_again(
    services: Services, repeats: Repeats
) -> None:
    """A kernel that does not start frees the key: the same request runs when it can."""
    await services.create()
    services.host.failure = start_failure()
    first = await ask(repeats, "out a")
    with pytest.raises(KernelStartFailed):
        await first.answer()
    assert (await (await ask(repeats, "out a")).answer()).stdout == "a\n"


@pytest.mark.gen_test
async def test_refused_runs_take_no_key(forgetful: Services) -> None:
    """A queue that is full has taken nothing."""
    services = forgetful
    repeats = Repeats(services.sessions, services.executions, SECRET)
    await services.create()
    running = await services.submit("listen")
    with pytest.raises(QueueFull):
        await ask(repeats, "out a")
    await services.until_running(1)
    await services.executions.interrupt("s1", running.id)
    assert (await (await ask(repeats, "other")).answer()).exit_code == 0


@pytest.mark.gen_test
async def test_key_that_cannot_be_kept(
    services: Services, repeats: Repeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs whose key is not on disk, and no log is left of it."""
    await services.create()
    full = InsufficientStorage("There is no room.")
    monkeypatch.setattr(services.database, "write", failing(full))
    with pytest.raises(InsufficientStorage):
        await ask(repeats, "out a")
    monkeypatch.undo()
    directory = (await services.session()).directory
    assert list((services.path / "sessions" / directory / "executions").iterdir()) == []
    assert (await (await ask(repeats, "out a")).answer()).stdout == "a\n"
    assert requests(services) == ["out a"]


@pytest.mark.gen_test
async def test_cancelled_run_keeps_its_key(services: Services, repeats: Repeats) -> None:
    """Who cancelled it did not want it to run: asking again does not make it run."""
    await services.create()
    first = await services.submit("listen")
    await services.until_running(1)
    waiting = await ask(repeats, "out a")
    await services.executions.interrupt("s1", waiting.id)
    again = await ask(repeats, "out a")
    assert (await again.answer()).exit_code == 130
    assert isinstance((await told(again))[-1], Done)
    await services.executions.interrupt("s1", first.id)


@pytest.mark.gen_test
async def test_callers_are_counted(services: Services, repeats: Repeats) -> None:
    """Of a finished execution nobody needs to be counted: leaving it is nothing."""
    await services.create()
    await (await ask(repeats, "out a")).answer()
    past = await ask(repeats, "out a")
    past.join()
    await past.leave()
    assert (await past.answer()).exit_code == 0
    await repeats.aclose()

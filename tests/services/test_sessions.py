"""Sessions are created, found, changed, deleted, counted, and closed."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import (
    AtCapacity,
    EndUnfinished,
    InvalidId,
    InvalidRequest,
    LanguageUnavailable,
    SessionExists,
    SessionNotFound,
    ShuttingDown,
    StorageFailed,
    TooLarge,
    UnsupportedLanguage,
)
from era_kernels.kernels.languages import Languages
from era_kernels.models import Done, ExitInfo, NewSession, Session, SessionStatus, Submission
from era_kernels.services import session_teardown
from era_kernels.services.executions.live_execution import LiveExecution
from era_kernels.services.session import machine_opener
from era_kernels.services.session_duplication import DuplicateRequest
from era_kernels.services.sessions import EVICTION_THRESHOLD
from era_kernels.services.ttl import TtlEntry
from tests.fakes import UNSANDBOXED, make_kernelspec
from tests.services.conftest import OpenServices
from tests.services.service_fixture import (
    LANGUAGE,
    Services,
    end_of,
    events_of,
    failing,
    sleep_briefly,
    sleep_steps,
)
from tests.waiting import until

BIG = {"a": "x" * (1 << 20)}


async def cancelled_after(steps: int, call: Any) -> None:
    """Starts the call, and cancels its caller after that many steps."""
    task = asyncio.create_task(call)
    await sleep_steps(steps)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


# ---------------------------------------------------------------- create


async def test_new_session(services: Services) -> None:
    """A session has the requested values, an id that cannot be guessed, and no kernel yet."""
    view, _ = await services.sessions.create(
        NewSession("ALPHA", data={"a": 1}, default_timeout=2.5)
    )
    session = view.session
    assert session.language == "alpha"
    assert session.id.startswith("sess-")
    assert len(session.id) > 30
    assert (view.status, view.isolation) == (SessionStatus.STOPPED, UNSANDBOXED)
    assert (session.persistent, session.allow_internet, session.allow_public) == (True, False, True)
    assert (session.data, session.default_timeout, session.last_run_at) == ({"a": 1}, 2.5, None)
    assert (
        await services.sessions.session(session.id)
        == await services.store.get(session.id)
        == session
    )
    assert services.host.machines == []


@pytest.mark.parametrize(
    ("new_session", "error"),
    [
        (NewSession("nothing"), UnsupportedLanguage),
        (NewSession(LANGUAGE, id=""), InvalidId),
        (NewSession(LANGUAGE, id="a/b"), InvalidId),
        (NewSession(LANGUAGE, id="-a"), InvalidId),
        (NewSession(LANGUAGE, id="a\n"), InvalidId),
        (NewSession(LANGUAGE, id="a" * 129), InvalidId),
        (NewSession(LANGUAGE, data=BIG), TooLarge),
        (NewSession(LANGUAGE, metadata=BIG), TooLarge),
        (NewSession(LANGUAGE, default_timeout=0), InvalidRequest),
        (NewSession(LANGUAGE, default_timeout=3601), InvalidRequest),
    ],
)
async def test_request_that_is_refused(
    services: Services, new_session: NewSession, error: type
) -> None:
    """Nothing is left of a request that is refused."""
    with pytest.raises(error):
        await services.sessions.create(new_session)
    assert services.directories == []
    _, total = await services.sessions.list_sessions()
    assert total == 0


@pytest.fixture
def three_sessions(open_services: OpenServices) -> Services:
    return open_services(max_sessions=3)


async def test_one_id_for_many_callers(three_sessions: Services) -> None:
    """Of many calls with the same id at once, one gets it, and only that one is counted."""
    services = three_sessions
    outcomes = await asyncio.gather(*(services.create() for _ in range(3)), return_exceptions=True)
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert sorted(kinds) == ["Session", "SessionExists", "SessionExists"]
    assert len(services.directories) == 1
    await services.create("s2")
    await services.create("s3")
    with pytest.raises(AtCapacity):
        await services.create("s4")


async def test_sessions_are_limited(three_sessions: Services) -> None:
    """A burst never exceeds the limit; deleted sessions free their place at once."""
    services = three_sessions
    outcomes = await asyncio.gather(
        *(services.create(f"s{n}") for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(outcome, AtCapacity) for outcome in outcomes) == 7
    assert all(o.retry_after for o in outcomes if isinstance(o, AtCapacity))
    await services.sessions.delete("s0")
    await services.create("s9")
    with pytest.raises(AtCapacity):
        await services.create("s8")


async def test_count_never_drifts(
    three_sessions: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed creations, double deletions and callers that leave do not change the count."""
    services = three_sessions
    with monkeypatch.context() as patch:
        patch.setattr(services.store, "create", failing(StorageFailed("It failed.")))
        for _ in range(5):
            with pytest.raises(StorageFailed):
                await services.create()
    with monkeypatch.context() as patch:
        patch.setattr(services.workspaces, "create", failing(StorageFailed("It failed.")))
        with pytest.raises(StorageFailed):
            await services.create()
    assert services.directories == []
    await services.create()
    both = await asyncio.gather(
        services.sessions.delete("s1"), services.sessions.delete("s1"), return_exceptions=True
    )
    assert [type(one) for one in both].count(SessionNotFound) == 1
    for steps in range(12):
        await cancelled_after(steps, services.create())
        await cancelled_after(steps, services.sessions.delete("s1"))
        await services.sessions._background.aclose()
        assert services.sessions._count == (await services.store.list_sessions())[1]
        await services.sessions.delete_all()
    assert services.sessions._count == 0


async def test_creation_whose_caller_leaves(services: Services) -> None:
    """A session is made as a whole or not at all, whenever the caller is cancelled."""
    for steps in range(20):
        await cancelled_after(steps, services.create(f"s{steps}"))
    await services.sessions._background.aclose()
    sessions, total = await services.store.list_sessions()
    assert services.directories == sorted(session.directory for session in sessions)
    assert services.sessions._count == total


# ---------------------------------------------------------------- find


async def test_list(services: Services) -> None:
    """Lists are oldest first, without data, in pages, by language and its aliases."""
    services.host.languages = Languages([make_kernelspec("alpha", "a"), make_kernelspec("beta")])
    for n in range(3):
        await services.create(f"s{n}", data={"n": n})
    await services.sessions.create(NewSession("beta", id="b"))
    views, total = await services.sessions.list_sessions()
    found = list(views)
    assert ([view.session.id for view in found], total) == (["s0", "s1", "s2", "b"], 4)
    assert all(view.session.data == {} for view in found)
    views, total = await services.sessions.list_sessions(1, 1, "A")
    assert ([view.session.id for view in views], total) == (["s1"], 3)
    with pytest.raises(UnsupportedLanguage):
        await services.sessions.list_sessions(language="gamma")


async def test_list_shows_sessions_as_they_are(services: Services) -> None:
    """Live sessions are listed with their present state."""
    await services.create("s1", data={"a": 1})
    await services.create("s2")
    await services.run("write f 1")
    running = await services.submit("gate a")
    await services.until_running(2)
    listed, _ = await services.sessions.list_sessions()
    views = list(listed)
    assert [view.status for view in views] == ["busy", "stopped"]
    assert views[0].session == dataclasses.replace(await services.session(), data={})
    services.gates["a"].set()
    await running.result()
    assert (await services.sessions.get("s1")).status == "idle"


async def test_status_while_the_kernel_starts(services: Services) -> None:
    """A session whose kernel starts says so."""
    await services.create()
    services.host.open_gate = asyncio.Event()
    running = await services.submit("out a")
    await services.until_starting()
    services.host.open_gate.set()
    await running.result()


async def test_unknown_session(services: Services) -> None:
    """Every call on a session that is not there says so."""
    sessions = services.sessions
    for call in (
        sessions.get("s1"),
        sessions.session("s1"),
        sessions.files("s1"),
        sessions.update("s1", metadata={}),
        sessions.delete("s1"),
        sessions.restart("s1", ""),
        services.submit("out a"),
    ):
        with pytest.raises(SessionNotFound) as caught:
            await call
        assert caught.value.id == "s1"
    assert sessions._live == {}


async def test_language_that_does_not_run_here(services: Services) -> None:
    """A session of it can be made; its runs are refused before they are queued."""
    services.host.languages = Languages([make_kernelspec("alpha", reason="no alpha")])
    await services.create()
    with pytest.raises(LanguageUnavailable):
        await services.submit("out a")
    assert (await services.executions.list_executions("s1"))[1] == 0


# ---------------------------------------------------------------- update


async def test_updates_at_once(services: Services) -> None:
    """None of many changes is lost, and the last one wins, in memory and on disk."""
    await services.create()
    await services.sessions.update("s1", data={})
    await asyncio.gather(*(services.sessions.update("s1", data={"n": n}) for n in range(20)))
    await services.sessions.update("s1", metadata={"m": 1})
    session = await services.session()
    assert (session.data, session.metadata) == ({"n": 19}, {"m": 1})
    assert await services.store.get("s1") == session


async def test_update_whose_caller_leaves(services: Services) -> None:
    """Memory and disk agree, whenever the caller is cancelled."""
    await services.create()
    for steps in range(20):
        await cancelled_after(steps, services.sessions.update("s1", data={"n": steps}))
        await services.sessions._background.aclose()
        assert await services.session() == await services.store.get("s1")


# ---------------------------------------------------------------- delete


async def test_delete(services: Services) -> None:
    """Kernel, files and executions are gone, and the id is free."""
    first = await services.create()
    await services.run("write f 1")
    await services.sessions.delete("s1")
    assert services.host.machines[0].ended.result().reason == "session deleted"
    assert services.directories == []
    assert services.kernel_limiter.holder_count == 0
    with pytest.raises(SessionNotFound):
        await services.sessions.get("s1")
    second = await services.create()
    assert second.directory != first.directory
    assert (await services.run("read f")).stdout == "nothing"
    assert (await services.executions.list_executions("s1"))[1] == 1


async def test_id_is_free_when_nothing_is_left(services: Services) -> None:
    """While the old session still ends, it is found no more, and a new one with its id waits."""
    await services.create()
    await services.run("out a")
    gate = services.host.machines[0].close_gate = asyncio.Event()
    deletion = asyncio.create_task(services.sessions.delete("s1"))
    await until(lambda: services.host.machines[0].ended.done())
    creation = asyncio.create_task(services.create())
    other = await services.create("s2")
    with pytest.raises(SessionNotFound):
        await services.sessions.get("s1")
    with pytest.raises(SessionNotFound):
        await services.sessions.delete("s1")
    assert not creation.done()
    assert services.sessions._count == 2
    assert services.kernel_limiter.holder_count == 1
    gate.set()
    await deletion
    assert services.directories == [other.directory]
    await creation
    assert (await services.run("out b")).stdout == "b\n"
    assert services.sessions._count == 2


async def test_new_session_waits_although_it_asked_first(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for the id before the end began waits, too, and is told of an end that is stuck."""
    monkeypatch.setattr(session_teardown, "RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(machine_opener, "RETRY_INTERVAL", 0.01)
    for is_stuck in (False, True):
        await services.create()
        await services.run("out a")
        machine = services.host.machines[-1]
        gate = machine.close_gate = asyncio.Event()
        find, may_look = services.store.find, asyncio.Event()

        async def find_later(session_id: str, find: Any = find, go: Any = may_look) -> Any:
            await go.wait()
            return await find(session_id)

        with monkeypatch.context() as patch:
            patch.setattr(services.store, "find", find_later)
            creation = asyncio.create_task(services.create())
            await sleep_briefly()
            if is_stuck:
                machine.end_error = EndUnfinished("It is stuck.")
                gate.set()
            deletion = asyncio.create_task(services.sessions.delete("s1"))
            await until(machine.ended.done)
            if is_stuck:
                with pytest.raises(EndUnfinished):
                    await deletion
            may_look.set()
            if is_stuck:
                with pytest.raises(EndUnfinished):
                    await creation
            await sleep_steps(50)
        assert creation.done() == is_stuck
        gate.set()
        machine.end_error = None
        if not is_stuck:
            await deletion
            await creation
            await services.sessions.delete("s1")
        await until(lambda: not services.sessions._count)
        assert services.directories == []
        assert services.kernel_limiter.holder_count == 0
        await sleep_briefly()


@pytest.mark.parametrize("way", ["delete", "delete_all", "expire", "duplicate"])
async def test_one_id_never_acts_twice(
    services: Services, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Many callers make and delete sessions of one id: at most one of them exists at a time."""
    sessions = services.sessions
    found: list[int] = []  # how many there were when another was stored
    await services.create("source")

    async def create() -> None:
        with suppress(SessionExists):
            if way == "duplicate":
                await sessions.duplicate("source", DuplicateRequest("s1", skip_queue=True))
            else:
                await services.create()

    async def delete(number: int) -> None:
        await sleep_steps(number % 7)
        with suppress(SessionNotFound):
            session = await services.store.get("s1")
            if way == "expire":
                await sessions._delete_expired([TtlEntry("s1", session.directory, 1.0)])
            elif way == "delete_all":
                await sessions.delete_all()
            else:
                await sessions.delete("s1")

    insert, remove = services.store.create, services.workspaces.remove
    present: set[str] = set()  # directories of sessions with that id

    async def insert_alone(session: Session, *rest: Any) -> None:
        await insert(session, *rest)
        if session.id == "s1":
            found.append(len(present))
            present.add(session.directory)

    async def remove_and_tell(directory: str, **options: Any) -> None:
        await remove(directory, **options)
        present.discard(directory)

    def told_late(call: Any) -> Any:
        async def call_and_wait(*arguments: Any) -> Any:
            result = await call(*arguments)
            await sleep_briefly()  # the row is gone, and the loop had other work
            return result

        return call_and_wait

    monkeypatch.setattr(services.store, "create", insert_alone)
    monkeypatch.setattr(services.store, "delete", told_late(services.store.delete))
    monkeypatch.setattr(services.store, "delete_all", told_late(services.store.delete_all))
    monkeypatch.setattr(services.workspaces, "remove", remove_and_tell)
    for number in range(60):
        await asyncio.gather(*(create() for _ in range(3)), *(delete(number + i) for i in range(3)))
    assert len(found) > 20
    assert set(found) == {0}


async def test_an_end_that_is_not_finished(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, nothing is given back, it goes on; then the id is free and all is gone."""
    monkeypatch.setattr(session_teardown, "RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(machine_opener, "RETRY_INTERVAL", 0.01)
    session = await services.create()
    running = await services.submit("wait")
    await services.until_running(1)
    machine = services.host.machines[0]
    machine.end_error = EndUnfinished("It is stuck.")
    for _ in range(2):
        with pytest.raises(EndUnfinished):
            await services.sessions.delete("s1")
    with pytest.raises(EndUnfinished):
        await services.create()
    assert (await running.result()).cause == "session deleted"
    assert services.directories == [session.directory]
    assert services.sessions._count == 1
    assert services.kernel_limiter.holder_count == 1
    assert [view.id for view in (await services.sessions.list_sessions())[0]] == []
    machine.end_error = None
    await until(lambda: not services.sessions._count)
    assert services.directories == []
    assert services.kernel_limiter.holder_count == 0
    await services.create()
    assert (await services.run("out b")).stdout == "b\n"


async def test_a_restart_that_cannot_end_the_kernel(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told; no second kernel runs beside the first; later a restart works."""
    monkeypatch.setattr(machine_opener, "RETRY_INTERVAL", 0.01)
    await services.create()
    await services.run("out a")
    machine = services.host.machines[0]
    machine.end_error = EndUnfinished("It is stuck.")
    with pytest.raises(EndUnfinished):
        await services.sessions.restart("s1", "http://localhost")
    assert len(services.host.machines) == 1
    machine.end_error = None
    await services.sessions.restart("s1", "http://localhost")
    assert len(services.host.machines) == 2
    await until(lambda: services.kernel_limiter.holder_count <= 1)


async def test_the_server_stops_although_an_end_is_not_finished(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be ended keeps nobody from stopping the server."""
    monkeypatch.setattr(machine_opener, "RETRY_INTERVAL", 0.01)
    await services.create()
    await services.run("out a")
    services.host.machines[0].end_error = EndUnfinished("It is stuck.")
    with pytest.raises(EndUnfinished):
        await services.sessions.delete("s1")
    await asyncio.wait_for(services.sessions.aclose(), 10)
    services.host.machines[0].end_error = None
    await until(lambda: not services.kernel_limiter.holder_count)


async def test_delete_all_does_not_touch_new_sessions(services: Services) -> None:
    """A session that gets a deleted id while others still end is not ended with them."""
    ids = [f"s{n}" for n in range(30)]
    for id_ in ids:
        await services.create(id_)
        await services.run("out a", id_)
    for machine in services.host.machines:
        machine.close_gate = services.gates["closing"]
    deletion = asyncio.create_task(services.sessions.delete_all())
    await until(lambda: not services.sessions._live)
    creations = [asyncio.create_task(services.create(id_)) for id_ in ids]
    await sleep_briefly()
    services.gates["closing"].set()
    await asyncio.gather(*creations)
    runs: list[LiveExecution] = []
    for id_ in ids:
        runs.append(await services.submit("gate b\nout b", id_))
    assert await deletion == ids
    services.gates["b"].set()
    assert [(await running.result()).stdout for running in runs] == ["b\n"] * 30
    assert len(services.directories) == 30


async def test_delete_all_races_creation(services: Services) -> None:
    """Whatever the order, what is left is whole, and the count is right."""
    for _ in range(10):
        calls: list[Any] = [services.create(f"s{n}") for n in range(5)]
        calls.insert(2, services.sessions.delete_all())
        await asyncio.gather(*calls, return_exceptions=True)
        sessions, total = await services.store.list_sessions()
        assert services.sessions._count == total
        assert services.directories == sorted(session.directory for session in sessions)


async def test_deletion_whose_caller_leaves(services: Services) -> None:
    """The deletion is completed: no kernel, no file, no waiting run is left."""
    for steps in range(20):
        await services.create()
        running = await services.submit("wait")
        await services.until_running(steps + 1)
        await cancelled_after(steps, services.sessions.delete("s1"))
        await services.sessions._background.aclose()
        with suppress(SessionNotFound):  # the call may have been cancelled before it began
            await services.sessions.delete("s1")
        assert services.directories == []
        assert (await running.result()).cause == "session deleted"
    assert services.kernel_limiter.holder_count == 0


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda services: services.sessions.delete("s1"), SessionNotFound),
        (lambda services: services.sessions.aclose(), ShuttingDown),
    ],
    ids=["its deletion", "the close of the server"],
)
async def test_row_that_was_read_before(
    services: Services, monkeypatch: pytest.MonkeyPatch, end: Any, error: type[Exception]
) -> None:
    """A row that was read before an end does not become a live session, and starts no kernel."""
    await services.create()
    get, reading = services.store.get, asyncio.Event()

    async def slow_get(id: str) -> Any:  # noqa: A002
        session = await get(id)
        reading.set()
        await services.gates["read"].wait()
        return session

    monkeypatch.setattr(services.store, "get", slow_get)
    submitting = asyncio.create_task(services.submit("out a"))
    await reading.wait()
    await end(services)
    services.gates["read"].set()
    with pytest.raises(error):
        await submitting
    assert error is ShuttingDown or services.sessions._live == {}
    assert services.host.machines == []


async def test_files_that_cannot_be_removed(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets the error; the other sessions are deleted all the same."""
    for n in range(3):
        await services.create(f"s{n}")
        await services.run("out a", f"s{n}")
    with monkeypatch.context() as patch:
        patch.setattr(services.workspaces, "remove", failing(StorageFailed("It stays.")))
        with pytest.raises(StorageFailed):
            await services.sessions.delete_all()
    assert all(machine.ended.done() for machine in services.host.machines)
    assert (services.sessions._count, services.sessions._live) == (0, {})


# ---------------------------------------------------------------- sessions in memory


async def test_first_calls_at_once_share_one_session(services: Services) -> None:
    """Two runs that are the first on a session queue for one kernel."""
    await services.create()
    answers = await asyncio.gather(*(services.run("number") for _ in range(5)))
    assert sorted(answer.stdout for answer in answers) == ["1", "2", "3", "4", "5"]
    assert len(services.host.machines) == 1


async def test_idle_sessions_are_evicted(services: Services) -> None:
    """Memory does not grow with every session that was ever touched."""
    for n in range(3 * EVICTION_THRESHOLD):
        await services.create(f"s{n}")
        await services.sessions.update(f"s{n}", metadata={"n": n})
    assert len(services.sessions._live) <= EVICTION_THRESHOLD
    assert (await services.session("s0")).metadata == {"n": 0}


async def test_evicted_session_is_read_as_it_was(services: Services) -> None:
    """Values stored without waiting are not lost: the row is as new as memory was."""
    await services.create("s")
    for n in range(EVICTION_THRESHOLD):
        await services.create(f"s{n}")
        await services.sessions.update(f"s{n}", metadata={})
    for generation in range(1, 4):
        await services.run("write f 1\nout a", "s")
        services.host.machines[-1].die(ExitInfo(code=1))
        await services.until_free(kernels=100)
        before = await services.session("s")
        await services.sessions._live["s"].wait_idle()
        for n in range(EVICTION_THRESHOLD):
            await services.sessions.update(f"s{n}", metadata={})
        assert "s" not in services.sessions._live
        assert await services.session("s") == before
        assert before.kernel_generation == generation


async def test_busy_sessions_are_not_evicted(services: Services) -> None:
    """Neither a run, nor a live kernel, nor a call that is under way is lost."""
    await services.create("busy")
    await services.create("idle")
    await services.run("out a", "idle")
    running = await services.submit("gate a\nout a", "busy")
    for n in range(2 * EVICTION_THRESHOLD):
        await services.create(f"s{n}")
        await services.sessions.update(f"s{n}", metadata={})
    services.gates["a"].set()
    assert (await running.result()).stdout == "a\n"
    assert (await services.run("out b", "idle")).started_from == "live"


# ---------------------------------------------------------------- the end


async def test_drain_lets_runs_end(services: Services) -> None:
    """New runs are refused; those under way, and those that wait, may end."""
    await services.create()
    runs = [await services.submit("gate a\nout a") for _ in range(2)]
    await services.until_running(1)
    drain = asyncio.create_task(services.sessions.drain(5))
    await asyncio.sleep(0)
    for call in (
        services.submit("out b"),
        services.sessions.restart("s1", ""),
        services.create("s2"),
        services.sessions.execute(LANGUAGE, Submission("out a")),
    ):
        with pytest.raises(ShuttingDown):
            await call
    services.gates["a"].set()
    await drain
    assert [running.execution.exit_code for running in runs] == [0, 0]


async def test_drain_ends_in_time(services: Services) -> None:
    """After the grace period `drain` returns, even if runs are still under way."""
    await services.create()
    running = await services.submit("wait")
    await services.until_running(1)
    await services.sessions.drain(0.01)
    assert not running.finished.is_set()


async def test_close_ends_runs(services: Services) -> None:
    """A run under way ends as `server stopped`, the queued ones with 503; data is kept."""
    await services.create()
    running = await services.submit('data {"a": 1}\nout a\nwait')
    queued = await services.submit("out b")
    await anext(running.follow())
    await services.sessions.aclose()
    codes, done = await end_of(running)
    assert (codes, done.exit_code, done.cause) == (["SERVER_STOPPED"], 137, "server stopped")
    assert done.data == {"a": 1}
    with pytest.raises(ShuttingDown):
        await queued.result()
    codes, done = await end_of(queued)
    assert (codes, done.exit_code) == (["SERVER_STOPPED"], 137)
    for call in (services.submit("out c"), services.sessions.restart("s1", "")):
        with pytest.raises(ShuttingDown):
            await call


async def test_close_does_not_wait_for_starts(services: Services) -> None:
    """Closing does not wait for a kernel that is only starting."""
    await services.create("s1")
    await services.create("s2")
    services.host.open_gate = asyncio.Event()
    running = await services.submit("out a", "s1")
    restart = asyncio.create_task(services.sessions.restart("s2", ""))
    await services.until_starting("s1")
    await services.until_starting("s2")
    await services.sessions.aclose()
    assert (await running.result()).cause == "server stopped"
    with pytest.raises(ShuttingDown):
        await restart
    assert services.host.machines == []


async def test_close_while_everything_goes_on(services: Services) -> None:
    """Every call that is under way ends, and no kernel outlives the close."""
    for n in range(6):
        await services.create(f"s{n}", persistent=n % 2 == 0)
        await services.run("write f 1", f"s{n}")
    calls = [
        asyncio.create_task(call)
        for call in (
            services.run("wait", "s0"),
            services.run("out a", "s1"),
            services.sessions.restart("s2", ""),
            services.sessions.delete("s3"),
            services.sessions.update("s4", data={"a": 1}),
            services.create("s6"),
            services.run("out a", "s6"),
            services.sessions.execute(LANGUAGE, Submission("out a")),
            services.sessions.delete_all(),
        )
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    await services.sessions.aclose()
    await asyncio.wait(calls)
    for call in calls:
        call.exception()
    assert all(machine.ended.done() for machine in services.host.machines)
    assert services.kernel_limiter.holder_count == 0
    assert services.executions._live == {}
    assert services.sessions._ephemeral.live == set()


def test_sessions_survive_the_server(open_services: OpenServices, io_loop: IOLoop) -> None:
    """Rows, files and executions survive a restart; directories without a session do not."""
    first = open_services()

    async def fill() -> None:
        await first.create("s1", data={"a": 1})
        await first.create("s2", persistent=False, data={"b": 2})
        await first.create("s3", persistent=False)
        for id_ in ("s1", "s2"):
            await first.run("write f 1", id_)
        await first.workspaces.create()
        await first.aclose()

    io_loop.run_sync(fill)
    second = open_services()

    async def look() -> None:
        assert second.sessions._count == 3
        answer = await second.run("read f", "s1")
        assert (answer.stdout, answer.started_from, answer.data) == ("1", "fresh", {"a": 1})
        assert answer.kernel_generation == 2
        answer = await second.run("read f", "s2")
        assert (answer.stdout, answer.data) == ("nothing", {"b": 2})
        assert len(second.directories) == 3
        listed, _ = await second.executions.list_executions("s1")
        events = second.executions.follow(await second.session("s1"), listed[0].id)
        assert isinstance([item async for batch in events for item in batch][-1].event, Done)

    io_loop.run_sync(look)


async def test_second_close_is_nothing(services: Services) -> None:
    """Closing twice has no further effect."""
    await services.create()
    running = await services.submit("out a")
    await events_of(running)
    await services.sessions.aclose()
    await services.sessions.aclose()

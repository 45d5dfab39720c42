"""All sessions: made, found, changed, deleted, counted, and closed."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import (
    Capacity,
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
from era_kernels.models import Done, Ending, NewSession, SessionStatus, Submission
from era_kernels.services.executions import Running
from era_kernels.services.sessions import REMEMBERED
from tests.fakes import NO_WALLS, a_language
from tests.services.conftest import OpenHouse
from tests.services.house import LANGUAGE, House, end_of, events_of, failing, moment, soon

BIG = {"a": "x" * (1 << 20)}


async def cancelled_after(steps: int, call: Any) -> None:
    """Start the call, and cancel its caller at that moment."""
    task = asyncio.create_task(call)
    await moment(steps)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


# ---------------------------------------------------------------- create


@pytest.mark.gen_test
async def test_new_session(house: House) -> None:
    """A session has what was wished for, an id that cannot be guessed, and no kernel yet."""
    view = await house.sessions.create(NewSession("ALPHA", data={"a": 1}, default_timeout=2.5))
    session = view.session
    assert session.language == "alpha"
    assert session.id.startswith("sess-")
    assert len(session.id) > 30
    assert (view.status, view.isolation) == (SessionStatus.STOPPED, NO_WALLS)
    assert (session.persistent, session.allow_internet, session.allow_public) == (True, False, True)
    assert (session.data, session.default_timeout, session.last_run_at) == ({"a": 1}, 2.5, None)
    assert await house.sessions.session(session.id) == await house.store.get(session.id) == session
    assert house.host.machines == []


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("wish", "error"),
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
async def test_wish_that_is_refused(house: House, wish: NewSession, error: type) -> None:
    """Nothing is made of a wish that is refused."""
    with pytest.raises(error):
        await house.sessions.create(wish)
    assert house.directories == []
    _, total = await house.sessions.list_sessions()
    assert total == 0


@pytest.mark.gen_test
async def test_taken_id(house: House) -> None:
    """A taken id is refused, and nothing changes."""
    first = await house.create(data={"a": 1})
    with pytest.raises(SessionExists) as caught:
        await house.create(data={"a": 2})
    assert caught.value.id == "s1"
    assert await house.store.get("s1") == first
    assert house.directories == [first.directory]


@pytest.fixture
def three_sessions(open_house: OpenHouse) -> House:
    return open_house(max_sessions=3)


@pytest.mark.gen_test
async def test_one_id_for_many_callers(three_sessions: House) -> None:
    """Of many who want the same id at once, one gets it, and only that one counts."""
    house = three_sessions
    outcomes = await asyncio.gather(*(house.create() for _ in range(3)), return_exceptions=True)
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert sorted(kinds) == ["Session", "SessionExists", "SessionExists"]
    assert len(house.directories) == 1
    await house.create("s2")
    await house.create("s3")
    with pytest.raises(Capacity):
        await house.create("s4")


@pytest.mark.gen_test
async def test_sessions_are_limited(three_sessions: House) -> None:
    """A burst never goes past the limit; deleted sessions make room at once."""
    house = three_sessions
    outcomes = await asyncio.gather(
        *(house.create(f"s{n}") for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Capacity) for outcome in outcomes) == 7
    assert all(o.retry_after for o in outcomes if isinstance(o, Capacity))
    await house.sessions.delete("s0")
    await house.create("s9")
    with pytest.raises(Capacity):
        await house.create("s8")


@pytest.mark.gen_test
async def test_count_never_drifts(three_sessions: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed creations, double deletions and callers that leave do not change the count."""
    house = three_sessions
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "create", failing(StorageFailed("It failed.")))
        for _ in range(5):
            with pytest.raises(StorageFailed):
                await house.create()
    with monkeypatch.context() as patch:
        patch.setattr(house.workspaces, "create", failing(StorageFailed("It failed.")))
        with pytest.raises(StorageFailed):
            await house.create()
    assert house.directories == []
    await house.create()
    both = await asyncio.gather(
        house.sessions.delete("s1"), house.sessions.delete("s1"), return_exceptions=True
    )
    assert [type(one) for one in both].count(SessionNotFound) == 1
    for steps in range(12):
        await cancelled_after(steps, house.create())
        await cancelled_after(steps, house.sessions.delete("s1"))
        await house.sessions._errands.aclose()
        assert house.sessions._count == (await house.store.list_sessions())[1]
        await house.sessions.delete_all()
    assert house.sessions._count == 0


@pytest.mark.gen_test
async def test_creation_whose_caller_leaves(house: House) -> None:
    """A session is made as a whole or not at all, whenever the caller is cancelled."""
    for steps in range(20):
        await cancelled_after(steps, house.create(f"s{steps}"))
    await house.sessions._errands.aclose()
    sessions, total = await house.store.list_sessions()
    assert house.directories == sorted(session.directory for session in sessions)
    assert house.sessions._count == total


# ---------------------------------------------------------------- find


@pytest.mark.gen_test
async def test_list(house: House) -> None:
    """Oldest first, without data, a part of them, by language and its aliases."""
    house.host.languages = Languages([a_language("alpha", "a"), a_language("beta")])
    for n in range(3):
        await house.create(f"s{n}", data={"n": n})
    await house.sessions.create(NewSession("beta", id="b"))
    views, total = await house.sessions.list_sessions()
    found = list(views)
    assert ([view.session.id for view in found], total) == (["s0", "s1", "s2", "b"], 4)
    assert all(view.session.data == {} for view in found)
    views, total = await house.sessions.list_sessions(1, 1, "A")
    assert ([view.session.id for view in views], total) == (["s1"], 3)
    with pytest.raises(UnsupportedLanguage):
        await house.sessions.list_sessions(language="gamma")


@pytest.mark.gen_test
async def test_list_shows_sessions_as_they_are(house: House) -> None:
    """Live sessions are listed with their present state."""
    await house.create("s1", data={"a": 1})
    await house.create("s2")
    await house.run("write f 1")
    running = await house.submit("gate a")
    await house.until_running(2)
    listed, _ = await house.sessions.list_sessions()
    views = list(listed)
    assert [view.status for view in views] == ["busy", "stopped"]
    assert views[0].session == dataclasses.replace(await house.session(), data={})
    house.gates["a"].set()
    await running.answer()
    assert (await house.sessions.get("s1")).status == "idle"


@pytest.mark.gen_test
async def test_status_while_the_kernel_starts(house: House) -> None:
    """A session whose kernel starts says so."""
    await house.create()
    house.host.opening = asyncio.Event()
    running = await house.submit("out a")
    await house.until_starting()
    house.host.opening.set()
    await running.answer()


@pytest.mark.gen_test
async def test_unknown_session(house: House) -> None:
    """Every call on a session that is not there says so."""
    sessions = house.sessions
    for call in (
        sessions.get("s1"),
        sessions.session("s1"),
        sessions.files("s1"),
        sessions.update("s1", metadata={}),
        sessions.delete("s1"),
        sessions.restart("s1", ""),
        house.submit("out a"),
    ):
        with pytest.raises(SessionNotFound) as caught:
            await call
        assert caught.value.id == "s1"
    assert sessions._live == {}


@pytest.mark.gen_test
async def test_files(house: House) -> None:
    """The user's files as they are now."""
    await house.create()
    await house.run("write b 12\nwrite a 1")
    found = await house.sessions.files("s1")
    assert [(file.path, file.size) for file in found.files] == [("a", 1), ("b", 2)]
    assert (found.count, found.total_size) == (2, 3)


@pytest.mark.gen_test
async def test_language_that_does_not_run_here(house: House) -> None:
    """A session of it can be made; its runs are refused before they are queued."""
    house.host.languages = Languages([a_language("alpha", reason="no alpha")])
    await house.create()
    with pytest.raises(LanguageUnavailable):
        await house.submit("out a")
    assert (await house.executions.list_executions("s1"))[1] == 0


# ---------------------------------------------------------------- update


@pytest.mark.gen_test
async def test_update(house: House) -> None:
    """Fields are replaced as a whole, at once and durably; others stay."""
    await house.create(metadata={"a": 1}, data={"b": 1}, default_timeout=5)
    view = await house.sessions.update("s1", metadata={"c": 2}, default_timeout=None)
    assert view.session.metadata == {"c": 2}
    assert (view.session.data, view.session.default_timeout) == ({"b": 1}, None)
    assert await house.store.get("s1") == await house.session() == view.session


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": BIG}, TooLarge),
        ({"metadata": BIG}, TooLarge),
        ({"default_timeout": -1}, InvalidRequest),
        ({"default_timeout": 3601}, InvalidRequest),
    ],
)
async def test_update_that_is_refused(
    house: House, changes: dict[str, object], error: type
) -> None:
    """Nothing changes then."""
    session = await house.create()
    with pytest.raises(error):
        await house.sessions.update("s1", **changes)
    assert await house.session() == session


@pytest.mark.gen_test
async def test_updates_at_once(house: House) -> None:
    """None of many changes is lost, and the last one wins, in memory and on disk."""
    await house.create()
    await house.sessions.update("s1", data={})
    await asyncio.gather(*(house.sessions.update("s1", data={"n": n}) for n in range(20)))
    await house.sessions.update("s1", metadata={"m": 1})
    session = await house.session()
    assert (session.data, session.metadata) == ({"n": 19}, {"m": 1})
    assert await house.store.get("s1") == session


@pytest.mark.gen_test
async def test_update_whose_caller_leaves(house: House) -> None:
    """Memory and disk agree, whenever the caller is cancelled."""
    await house.create()
    for steps in range(20):
        await cancelled_after(steps, house.sessions.update("s1", data={"n": steps}))
        await house.sessions._errands.aclose()
        assert await house.session() == await house.store.get("s1")


# ---------------------------------------------------------------- delete


@pytest.mark.gen_test
async def test_delete(house: House) -> None:
    """Kernel, files and executions are gone, and the id is free."""
    first = await house.create()
    await house.run("write f 1")
    await house.sessions.delete("s1")
    assert house.host.machines[0].ended.result().reason == "session deleted"
    assert house.directories == []
    assert house.seats.taken == 0
    with pytest.raises(SessionNotFound):
        await house.sessions.get("s1")
    second = await house.create()
    assert second.directory != first.directory
    assert (await house.run("read f")).stdout == "nothing"
    assert (await house.executions.list_executions("s1"))[1] == 1


@pytest.mark.gen_test
async def test_id_is_free_at_once(house: House) -> None:
    """While the old session still ends, a new one of its id lives, and is left in peace."""
    await house.create()
    await house.run("out a")
    house.host.machines[0].closing = asyncio.Event()
    deletion = asyncio.create_task(house.sessions.delete("s1"))
    while not house.host.machines[0].ended.done():
        await soon()
    await house.create()
    running = await house.submit("gate b\nout b")
    await house.until_running(2)
    house.host.machines[0].closing.set()
    await deletion
    assert house.seats.taken == 1
    house.gates["b"].set()
    assert (await running.answer()).stdout == "b\n"


@pytest.mark.gen_test
async def test_delete_all_leaves_new_ones_in_peace(house: House) -> None:
    """A session that gets a deleted id while others still end is not ended with them."""
    ids = [f"s{n}" for n in range(30)]
    for id_ in ids:
        await house.create(id_)
        await house.run("out a", id_)
    for machine in house.host.machines:
        machine.closing = house.gates["closing"]
    deletion = asyncio.create_task(house.sessions.delete_all())
    while house.sessions._live:
        await soon()
    runs: list[Running] = []
    for id_ in ids:
        await house.create(id_)
        runs.append(await house.submit("gate b\nout b", id_))
    house.gates["closing"].set()
    assert await deletion == ids
    house.gates["b"].set()
    assert [(await running.answer()).stdout for running in runs] == ["b\n"] * 30
    assert len(house.directories) == 30


@pytest.mark.gen_test
async def test_delete_all_races_creation(house: House) -> None:
    """Whatever the order, what is left is whole, and the count is right."""
    for _ in range(10):
        calls: list[Any] = [house.create(f"s{n}") for n in range(5)]
        calls.insert(2, house.sessions.delete_all())
        await asyncio.gather(*calls, return_exceptions=True)
        sessions, total = await house.store.list_sessions()
        assert house.sessions._count == total
        assert house.directories == sorted(session.directory for session in sessions)


@pytest.mark.gen_test
async def test_deletion_whose_caller_leaves(house: House) -> None:
    """It is done to its end: no kernel, no file, no run is left waiting."""
    for steps in range(20):
        await house.create()
        running = await house.submit("wait")
        await house.until_running(steps + 1)
        await cancelled_after(steps, house.sessions.delete("s1"))
        await house.sessions._errands.aclose()
        with suppress(SessionNotFound):  # it may have been cancelled before it began
            await house.sessions.delete("s1")
        assert house.directories == []
        assert (await running.answer()).cause == "session deleted"
    assert house.seats.taken == 0


@pytest.mark.gen_test
async def test_row_that_was_read_before_a_deletion(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not come to life after it."""
    await house.create()
    get, reading = house.store.get, asyncio.Event()

    async def slow_get(id: str) -> Any:
        session = await get(id)
        reading.set()
        await house.gates["read"].wait()
        return session

    monkeypatch.setattr(house.store, "get", slow_get)
    submitting = asyncio.create_task(house.submit("out a"))
    await reading.wait()
    await house.sessions.delete("s1")
    house.gates["read"].set()
    with pytest.raises(SessionNotFound):
        await submitting
    assert house.sessions._live == {}


@pytest.mark.gen_test
async def test_files_that_cannot_be_removed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked is told; the other sessions are deleted all the same."""
    for n in range(3):
        await house.create(f"s{n}")
        await house.run("out a", f"s{n}")
    with monkeypatch.context() as patch:
        patch.setattr(house.workspaces, "remove", failing(StorageFailed("It stays.")))
        with pytest.raises(StorageFailed):
            await house.sessions.delete_all()
    assert all(machine.ended.done() for machine in house.host.machines)
    assert (house.sessions._count, house.sessions._live) == (0, {})


# ---------------------------------------------------------------- what is remembered


@pytest.mark.gen_test
async def test_first_calls_at_once_share_one_session(house: House) -> None:
    """Two runs that are the first on a session queue for one kernel."""
    await house.create()
    answers = await asyncio.gather(*(house.run("number") for _ in range(5)))
    assert sorted(answer.stdout for answer in answers) == ["1", "2", "3", "4", "5"]
    assert len(house.host.machines) == 1


@pytest.mark.gen_test
async def test_sessions_that_rest_are_forgotten(house: House) -> None:
    """Memory does not grow with every session that was ever touched."""
    for n in range(3 * REMEMBERED):
        await house.create(f"s{n}")
        await house.sessions.update(f"s{n}", metadata={"n": n})
    assert len(house.sessions._live) <= REMEMBERED
    assert (await house.session("s0")).metadata == {"n": 0}


@pytest.mark.gen_test(timeout=20)
async def test_forgotten_session_is_read_as_it_was(house: House) -> None:
    """What nobody waited for is not lost: the row is never older than what was in memory."""
    await house.create("s")
    for n in range(REMEMBERED):
        await house.create(f"s{n}")
        await house.sessions.update(f"s{n}", metadata={})
    for generation in range(1, 4):
        await house.run("write f 1\nout a", "s")
        house.host.machines[-1].die(Ending(code=1))
        await house.until(free_seats=100)
        before = await house.session("s")
        await house.sessions._live["s"].wait_idle()
        for n in range(REMEMBERED):
            await house.sessions.update(f"s{n}", metadata={})
        assert "s" not in house.sessions._live
        assert await house.session("s") == before
        assert before.kernel_generation == generation


@pytest.mark.gen_test
async def test_busy_sessions_are_not_forgotten(house: House) -> None:
    """Neither a run, nor a live kernel, nor a call that is under way is lost."""
    await house.create("busy")
    await house.create("idle")
    await house.run("out a", "idle")
    running = await house.submit("gate a\nout a", "busy")
    for n in range(2 * REMEMBERED):
        await house.create(f"s{n}")
        await house.sessions.update(f"s{n}", metadata={})
    house.gates["a"].set()
    assert (await running.answer()).stdout == "a\n"
    assert (await house.run("out b", "idle")).started_from == "live"


# ---------------------------------------------------------------- the end


@pytest.mark.gen_test
async def test_drain_lets_runs_end(house: House) -> None:
    """No new runs; those under way, and those that wait, may end."""
    await house.create()
    runs = [await house.submit("gate a\nout a") for _ in range(2)]
    await house.until_running(1)
    drain = asyncio.create_task(house.sessions.drain(5))
    await asyncio.sleep(0)
    for call in (
        house.submit("out b"),
        house.sessions.restart("s1", ""),
        house.create("s2"),
        house.sessions.execute(LANGUAGE, Submission("out a")),
    ):
        with pytest.raises(ShuttingDown):
            await call
    house.gates["a"].set()
    await drain
    assert [running.execution.exit_code for running in runs] == [0, 0]


@pytest.mark.gen_test
async def test_drain_ends_in_time(house: House) -> None:
    """After the grace period it returns, whoever still runs."""
    await house.create()
    running = await house.submit("wait")
    await house.until_running(1)
    await house.sessions.drain(0.01)
    assert not running.finished.is_set()


@pytest.mark.gen_test
async def test_close_ends_runs(house: House) -> None:
    """A run under way ends as `server stopped`, the queued ones with 503; data is kept."""
    await house.create()
    running = await house.submit('data {"a": 1}\nout a\nwait')
    queued = await house.submit("out b")
    await anext(running.follow())
    await house.sessions.aclose()
    codes, done = await end_of(running)
    assert (codes, done.exit_code, done.cause) == (["SERVER_STOPPED"], 137, "server stopped")
    assert done.data == {"a": 1}
    with pytest.raises(ShuttingDown):
        await queued.answer()
    codes, done = await end_of(queued)
    assert (codes, done.exit_code) == (["SERVER_STOPPED"], 137)
    for call in (house.submit("out c"), house.sessions.restart("s1", "")):
        with pytest.raises(ShuttingDown):
            await call


@pytest.mark.gen_test
async def test_close_does_not_wait_for_starts(house: House) -> None:
    """A kernel that is only starting holds nothing up."""
    await house.create("s1")
    await house.create("s2")
    house.host.opening = asyncio.Event()
    running = await house.submit("out a", "s1")
    restart = asyncio.create_task(house.sessions.restart("s2", ""))
    await house.until_starting("s1")
    await house.until_starting("s2")
    await house.sessions.aclose()
    assert (await running.answer()).cause == "server stopped"
    with pytest.raises(ShuttingDown):
        await restart
    assert house.host.machines == []


@pytest.mark.gen_test(timeout=20)
async def test_close_while_everything_goes_on(house: House) -> None:
    """Whatever happens just then comes to an end, and no kernel outlives it."""
    for n in range(6):
        await house.create(f"s{n}", persistent=n % 2 == 0)
        await house.run("write f 1", f"s{n}")
    calls = [
        asyncio.create_task(call)
        for call in (
            house.run("wait", "s0"),
            house.run("out a", "s1"),
            house.sessions.restart("s2", ""),
            house.sessions.delete("s3"),
            house.sessions.update("s4", data={"a": 1}),
            house.create("s6"),
            house.run("out a", "s6"),
            house.sessions.execute(LANGUAGE, Submission("out a")),
            house.sessions.delete_all(),
        )
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    await house.sessions.aclose()
    await asyncio.wait(calls)
    for call in calls:
        call.exception()
    assert all(machine.ended.done() for machine in house.host.machines)
    assert house.seats.taken == 0
    assert house.executions._live == {}
    assert house.sessions._throwaways.live == set()


@pytest.mark.gen_test
async def test_call_that_was_reading_while_the_server_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not start a kernel afterwards."""
    await house.create()
    get, reading = house.store.get, asyncio.Event()

    async def slow_get(id: str) -> Any:
        session = await get(id)
        reading.set()
        await house.gates["read"].wait()
        return session

    monkeypatch.setattr(house.store, "get", slow_get)
    submitting = asyncio.create_task(house.submit("out a"))
    await reading.wait()
    await house.sessions.aclose()
    house.gates["read"].set()
    with pytest.raises(ShuttingDown):
        await submitting
    assert house.host.machines == []


def test_sessions_survive_the_server(open_house: OpenHouse, io_loop: IOLoop) -> None:
    """Rows, files and executions are there after a restart; what no session names is not."""
    first = open_house()

    async def fill() -> None:
        await first.create("s1", data={"a": 1})
        await first.create("s2", persistent=False, data={"b": 2})
        await first.create("s3", persistent=False)
        for id_ in ("s1", "s2"):
            await first.run("write f 1", id_)
        await first.workspaces.create()
        await first.aclose()

    io_loop.run_sync(fill)
    second = open_house()

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


@pytest.mark.gen_test
async def test_second_close_is_nothing(house: House) -> None:
    """Closing twice is fine."""
    await house.create()
    running = await house.submit("out a")
    await events_of(running)
    await house.sessions.aclose()
    await house.sessions.aclose()

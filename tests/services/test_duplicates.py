"""Duplicates: whole or not at all, in their turn, whatever happens to the source meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from era_kernels.errors import (
    Capacity,
    InsufficientStorage,
    InvalidId,
    QueueFull,
    SessionExists,
    SessionNotFound,
    ShuttingDown,
    StorageFailed,
    TooLarge,
)
from era_kernels.models import Session
from era_kernels.safe_fs.copy import TreeCopier
from era_kernels.services.duplicates import Wish
from tests.services.conftest import OpenHouse
from tests.services.house import DATA, House, failing, moment, soon


async def duplicate(house: House, id: str | None = "s2", **wish: Any) -> Session:
    return (await house.sessions.duplicate("s1", Wish(id, **wish))).session


async def files(house: House, id: str) -> dict[str, str]:
    workspace = await house.workspace(id)
    return {
        str(path.relative_to(workspace)): path.read_text()
        for path in workspace.rglob("*")
        if path.is_file() and path.name != DATA
    }


@pytest.fixture
def tight_house(open_house: OpenHouse) -> House:
    """Two sessions, and one run that waits."""
    return open_house(max_queue=1, max_sessions=2)


@dataclasses.dataclass
class Gate:
    """Holds copies at their first file until it is opened, unless they are stopped."""

    reached: threading.Event = dataclasses.field(default_factory=threading.Event)
    open: threading.Event = dataclasses.field(default_factory=threading.Event)

    async def wait(self) -> None:
        while not self.reached.is_set():
            await soon()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, look = Gate(), TreeCopier._check_cancelled

    def held(copies: TreeCopier) -> None:
        gate.reached.set()
        while not gate.open.wait(0.001):
            look(copies)
        look(copies)

    monkeypatch.setattr(TreeCopier, "_check_cancelled", held)
    yield gate
    gate.open.set()


# ---------------------------------------------------------------- what is copied


@pytest.mark.gen_test
async def test_everything_is_copied(house: House) -> None:
    """Files, data, code, labels and flags; the rest is that of a new session."""
    source = await house.create(
        data={"a": 1, "code": "out stored"}, metadata={"m": 2}, default_timeout=7, ttl=1000,
        allow_internet=True, allow_public=False,
    )  # fmt: skip
    await house.run("write file text")
    packages = house.workspaces.session_paths(source.directory).packages
    (packages / "module").write_text("package")
    before = await house.session()
    copy = await duplicate(house)
    for name in ("language", "persistent", "data", "metadata", "default_timeout", "ttl",
                 "allow_internet", "allow_public", "file_count", "total_size"):  # fmt: skip
        assert getattr(copy, name) == getattr(before, name), name
    assert (copy.id, copy.last_run_at, copy.kernel_generation) == ("s2", None, 0)
    assert copy.created_at > before.created_at
    assert copy == await house.store.get("s2")
    assert await files(house, "s2") == {"file": "text"}
    place = house.workspaces.session_paths(copy.directory)
    assert (place.packages / "module").read_text() == "package"
    code = await house.codes.find(copy.directory)
    assert code is not None
    assert code == await house.codes.find(source.directory)
    assert await house.session() == before
    assert len(house.host.machines) == 1  # a copy needs no kernel
    assert (await house.executions.list_executions("s2"))[1] == 0


@pytest.mark.gen_test
async def test_they_are_two(house: House) -> None:
    """What is done to one is not done to the other; either outlives the other."""
    await house.create(data={"a": 1})
    await house.run("write file one")
    copy = await duplicate(house)
    await house.run("write file two", update_data={"a": 2})
    assert await files(house, "s2") == {"file": "one"}
    await house.sessions.delete("s1")
    answer = await house.run("read file\nread .session_data.json", "s2")
    assert answer.stdout == 'one{"a":1}'
    assert (await house.session("s2")).directory == copy.directory


@pytest.mark.gen_test
async def test_data(house: House) -> None:
    """Data that are given replace those of the source, whole; `.session_data.json` shows them."""
    await house.create(data={"a": 1, "b": 2})
    await house.run("out x")
    for name, data, expected in (("s2", None, {"a": 1, "b": 2}), ("s3", {}, {}),
                                 ("s4", {"c": 3}, {"c": 3})):  # fmt: skip
        copy = await duplicate(house, name, data=data)
        assert copy.data == expected
        mirror = await house.workspace(name) / DATA
        assert json.loads(mirror.read_text()) == expected
    assert (await house.session()).data == {"a": 1, "b": 2}


@pytest.mark.gen_test
async def test_a_session_that_never_ran(house: House) -> None:
    """It can be duplicated, and no kernel is started; so can its duplicate."""
    await house.create()
    await duplicate(house)
    copy = (await house.sessions.duplicate("s2", Wish())).session
    assert copy.id.startswith("sess-")
    assert house.host.machines == []


@pytest.mark.gen_test
async def test_not_persistent(house: House) -> None:
    """The files of a session that is not persistent are copied, and go with the copy's kernel."""
    await house.create(persistent=False)
    await house.run("write file text")
    await duplicate(house)
    assert (await house.run("read file", "s2")).stdout == "text"
    await house.run("die 1", "s2")
    assert (await house.run("read file", "s2")).stdout == "nothing"
    assert (await house.run("read file")).stdout == "text"


@pytest.mark.gen_test
async def test_a_copy_is_made_while_files_would_be_dropped(house: House, gate: Gate) -> None:
    """A restart of a session that is not persistent drops its files after the copy, or before."""
    await house.create(persistent=False)
    await house.run("write file text")
    copying = asyncio.create_task(duplicate(house, at_once=True))
    await gate.wait()
    restart = asyncio.create_task(house.sessions.restart("s1", ""))
    await asyncio.sleep(0.02)
    assert not restart.done()
    gate.open.set()
    await asyncio.gather(copying, restart)
    assert await files(house, "s2") == {"file": "text"}
    assert await files(house, "s1") == {}


# ---------------------------------------------------------------- its turn


@pytest.mark.gen_test
async def test_it_waits_its_turn(house: House) -> None:
    """It sees what the runs before it did, and nothing of the runs behind it."""
    await house.create()
    first = await house.submit("gate g\nwrite file before")
    copying = asyncio.create_task(duplicate(house))
    await asyncio.sleep(0.02)
    behind = await house.submit("write file after")
    assert behind.execution.position == 2
    assert await house.store.find("s2") is None
    assert (await house.sessions.get("s1")).status == "busy"
    house.gates["g"].set()
    await copying
    await asyncio.gather(first.answer(), behind.answer())
    assert await files(house, "s2") == {"file": "before"}


@pytest.mark.gen_test
async def test_at_once(house: House) -> None:
    """It does not wait when it need not, and the run goes on."""
    await house.create()
    running = await house.submit("write file before\ngate g\nwrite file after")
    await house.until_running(1)
    while not await files(house, "s1"):
        await soon()
    await duplicate(house, at_once=True)
    assert await files(house, "s2") == {"file": "before"}
    house.gates["g"].set()
    await running.answer()
    assert await files(house, "s1") == {"file": "after"}


@pytest.mark.gen_test
async def test_runs_wait_for_it(house: House, gate: Gate) -> None:
    """A run that comes while files are copied in their turn changes them afterwards."""
    await house.create()
    await house.run("write file before")
    copying = asyncio.create_task(duplicate(house))
    await gate.wait()
    behind = await house.submit("write file after")
    await asyncio.sleep(0.02)
    assert not behind.finished.is_set()
    gate.open.set()
    await asyncio.gather(copying, behind.answer())
    assert await files(house, "s2") == {"file": "before"}


@pytest.mark.gen_test
async def test_full_queue(tight_house: House) -> None:
    """It takes a place in the queue, where there must be room; at once it needs none."""
    house = tight_house
    await house.create()
    runs = [await house.submit("gate g") for _ in range(2)]
    with pytest.raises(QueueFull):
        await duplicate(house)
    await duplicate(house, "s3", at_once=True)
    house.gates["g"].set()
    await asyncio.gather(*(run.answer() for run in runs))


# ---------------------------------------------------------------- nothing is left


@pytest.mark.gen_test
async def test_taken(house: House) -> None:
    """A taken id is told at once, also while the source is busy, and nothing changes."""
    await house.create()
    other = await house.create("s2", data={"mine": 1})
    await house.submit("gate g")
    with pytest.raises(SessionExists) as caught:
        await duplicate(house)
    assert caught.value.id == "s2"
    with pytest.raises(SessionExists):
        await duplicate(house, "s1")
    assert await house.session("s2") == other
    assert len(house.directories) == house.sessions.count == 2
    house.gates["g"].set()


@pytest.mark.gen_test
async def test_one_id_at_once(house: House) -> None:
    """Of many that want one id exactly one gets it; the others leave nothing."""
    await house.create()
    await house.run("write file text")
    copies = [duplicate(house, at_once=number % 2 == 0) for number in range(10)]
    outcomes = await asyncio.gather(*copies, return_exceptions=True)
    assert sum(isinstance(one, Session) for one in outcomes) == 1
    assert sum(isinstance(one, SessionExists) for one in outcomes) == 9
    assert await files(house, "s2") == {"file": "text"}
    assert len(house.directories) == house.sessions.count == 2


@pytest.mark.gen_test
async def test_refused(tight_house: House) -> None:
    """No room, no source, a bad id, data that are too large: told, and nothing is left."""
    house = tight_house
    await house.create()
    await house.create("other")
    with pytest.raises(Capacity, match="2 sessions"):
        await duplicate(house)
    with pytest.raises(InvalidId):
        await duplicate(house, "../x")
    with pytest.raises(TooLarge):
        await duplicate(house, data={"a": "x" * 1_100_000})
    with pytest.raises(SessionNotFound):
        await house.sessions.duplicate("gone", Wish())
    assert len(house.directories) == house.sessions.count == 2
    await house.sessions.delete("other")
    await duplicate(house)


@pytest.mark.gen_test
@pytest.mark.parametrize("problem", [InsufficientStorage("full"), TooLarge("many")])
@pytest.mark.parametrize("where", ["workspaces.copy", "store.create", "codes.find"])
async def test_failure(
    house: House, monkeypatch: pytest.MonkeyPatch, where: str, problem: Exception
) -> None:
    """Whatever fails on the way is told; nothing is left, and the next one works."""
    await house.create()
    await house.run("write file text")
    part, _, method = where.partition(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(house, part), method, failing(problem))
        with pytest.raises(type(problem)):
            await duplicate(house)
    assert len(house.directories) == house.sessions.count == 1
    await duplicate(house)


@pytest.mark.gen_test
@pytest.mark.parametrize("n", [*range(0, 60, 3), 80, 100])
async def test_client_that_leaves(house: House, n: int) -> None:
    """At whatever moment its client leaves: there is a whole duplicate, or nothing."""
    await house.create()
    await house.run("\n".join(f"write file{number} text" for number in range(50)))
    copying = asyncio.create_task(duplicate(house))
    await moment(n)
    copying.cancel()
    await asyncio.wait([copying])
    while house.sessions._errands._tasks:
        await soon()
    made = await house.store.find("s2")
    assert len(house.directories) == house.sessions.count == (1 if made is None else 2)
    if made is not None:
        assert len(await files(house, "s2")) == 50
    assert (await house.run("out next")).stdout == "next\n"


@pytest.mark.gen_test
async def test_client_that_leaves_the_queue(house: House) -> None:
    """Who waits for a busy source and leaves makes nothing, and holds up nobody."""
    await house.create()
    running = await house.submit("gate g")
    copying = asyncio.create_task(duplicate(house))
    await asyncio.sleep(0.02)
    behind = await house.submit("out behind")
    copying.cancel()
    await asyncio.wait([copying])
    assert behind.execution.position == 1
    house.gates["g"].set()
    await asyncio.gather(running.answer(), behind.answer())
    assert house.sessions.count == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("at_once", [False, True])
async def test_source_deleted_while_it_is_copied(house: House, gate: Gate, at_once: bool) -> None:
    """The copy of a session that is deleted meanwhile ends at once, with 404, and is removed."""
    await house.create()
    await house.run("write file text")
    copying = asyncio.create_task(duplicate(house, at_once=at_once))
    await gate.wait()
    await house.sessions.delete("s1")
    with pytest.raises(SessionNotFound, match="s1"):
        await copying
    while house.directories:
        await soon()
    assert house.sessions.count == 0


@pytest.mark.gen_test
async def test_source_deleted_while_it_waits(house: House) -> None:
    """A duplicate that waits behind a run is told when its source is deleted."""
    await house.create()
    running = await house.submit("wait")
    copying = asyncio.create_task(duplicate(house))
    await asyncio.sleep(0.02)
    await house.sessions.delete("s1")
    with pytest.raises(SessionNotFound):
        await copying
    assert running.execution.exit_code == 137
    assert house.directories == []


@pytest.mark.gen_test
async def test_source_whose_directory_is_gone(house: House) -> None:
    """A failure of the store is told as what it is."""
    session = await house.create()
    await house.workspaces.remove(session.directory)
    with pytest.raises(StorageFailed, match="gone"):
        await duplicate(house)
    assert house.sessions.count == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("at_once", [False, True])
async def test_server_that_stops(house: House, gate: Gate, at_once: bool) -> None:
    """A server that stops ends the copying, and tells; the next start finds nothing of it."""
    await house.create()
    await house.run("write file text")
    copying = asyncio.create_task(duplicate(house, at_once=at_once))
    await gate.wait()
    await house.sessions.aclose()
    with pytest.raises(ShuttingDown):
        await copying
    assert len(house.directories) == 1
    with pytest.raises(ShuttingDown):
        await duplicate(house)


@pytest.mark.gen_test
async def test_half_copies_are_swept(house: House) -> None:
    """What a killed server leaves of a copy is a directory of no session: it goes at the start."""
    await house.create()
    half = await house.workspaces.create()
    (house.workspaces.session_paths(half).workspace / "file").write_text("half")
    await house.workspaces.reconcile({(await house.session()).directory})
    assert half not in house.directories

"""Duplicates are whole or not made at all, whatever happens to the source meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from era_kernels.errors import (
    AtCapacity,
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
from era_kernels.services.session_duplication import DuplicateRequest
from tests.services.conftest import OpenServices
from tests.services.service_fixture import DATA, Services, failing, sleep_steps
from tests.waiting import until


async def duplicate(services: Services, session_id: str | None = "s2", **fields: Any) -> Session:
    request = DuplicateRequest(session_id, **fields)
    return (await services.sessions.duplicate("s1", request))[0].session


async def files(services: Services, session_id: str) -> dict[str, str]:
    workspace = await services.workspace(session_id)
    return {
        str(path.relative_to(workspace)): path.read_text()
        for path in workspace.rglob("*")
        if path.is_file() and path.name != DATA
    }


@pytest.fixture
def limited_services(open_services: OpenServices) -> Services:
    """At most two sessions, and one run that waits."""
    return open_services(max_queue=1, max_sessions=2)


@dataclasses.dataclass
class Gate:
    """Holds copies at their first file until the gate is opened or the copy is cancelled."""

    reached: threading.Event = dataclasses.field(default_factory=threading.Event)
    open: threading.Event = dataclasses.field(default_factory=threading.Event)

    async def wait(self) -> None:
        await until(lambda: self.reached.is_set())


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


async def test_everything_is_copied(services: Services) -> None:
    """Files, data, code, labels and flags are copied; the rest is that of a new session."""
    source = await services.create(
        data={"a": 1, "code": "out stored"}, metadata={"m": 2}, default_timeout=7, ttl=1000,
        allow_internet=True, allow_public=False,
    )  # fmt: skip
    await services.run("write file text")
    packages = services.workspaces.session_paths(source.directory).packages
    (packages / "module").write_text("package")
    before = await services.session()
    copy = await duplicate(services)
    for name in ("language", "persistent", "data", "metadata", "default_timeout", "ttl",
                 "allow_internet", "allow_public", "file_count", "total_size"):  # fmt: skip
        assert getattr(copy, name) == getattr(before, name), name
    assert (copy.id, copy.last_run_at, copy.kernel_generation) == ("s2", None, 0)
    assert copy.created_at > before.created_at
    assert copy == await services.store.get("s2")
    assert await files(services, "s2") == {"file": "text"}
    place = services.workspaces.session_paths(copy.directory)
    assert (place.packages / "module").read_text() == "package"
    code = await services.codes.find(copy.directory)
    assert code is not None
    assert code == await services.codes.find(source.directory)
    assert await services.session() == before
    assert len(services.host.machines) == 1  # a copy needs no kernel
    assert (await services.executions.list_executions("s2"))[1] == 0


async def test_not_persistent(services: Services) -> None:
    """The files of a session that is not persistent are copied, and go with the copy's kernel."""
    await services.create(persistent=False)
    await services.run("write file text")
    await duplicate(services)
    assert (await services.run("read file", "s2")).stdout == "text"
    await services.run("die 1", "s2")
    assert (await services.run("read file", "s2")).stdout == "nothing"
    assert (await services.run("read file")).stdout == "text"


async def test_copy_while_files_would_be_cleared(services: Services, gate: Gate) -> None:
    """A restart of a session that is not persistent removes its files before or after a copy."""
    await services.create(persistent=False)
    await services.run("write file text")
    copying = asyncio.create_task(duplicate(services, skip_queue=True))
    await gate.wait()
    restart = asyncio.create_task(services.sessions.restart("s1", ""))
    await asyncio.sleep(0.02)
    assert not restart.done()
    gate.open.set()
    await asyncio.gather(copying, restart)
    assert await files(services, "s2") == {"file": "text"}
    assert await files(services, "s1") == {}


# ---------------------------------------------------------------- the queue


async def test_runs_wait_for_it(services: Services, gate: Gate) -> None:
    """A run that is submitted during a copy changes the files afterwards."""
    await services.create()
    await services.run("write file before")
    copying = asyncio.create_task(duplicate(services))
    await gate.wait()
    behind = await services.submit("write file after")
    await asyncio.sleep(0.02)
    assert not behind.finished.is_set()
    gate.open.set()
    await asyncio.gather(copying, behind.result())
    assert await files(services, "s2") == {"file": "before"}


async def test_full_queue(limited_services: Services) -> None:
    """A duplicate needs room in the queue; with `skip_queue` it needs none."""
    services = limited_services
    await services.create()
    runs = [await services.submit("gate g") for _ in range(2)]
    with pytest.raises(QueueFull):
        await duplicate(services)
    await duplicate(services, "s3", skip_queue=True)
    services.gates["g"].set()
    await asyncio.gather(*(run.result() for run in runs))


# ---------------------------------------------------------------- nothing is left


async def test_taken_id(services: Services) -> None:
    """A taken id is refused at once, also while the source is busy, and nothing changes."""
    await services.create()
    other = await services.create("s2", data={"mine": 1})
    await services.submit("gate g")
    with pytest.raises(SessionExists) as caught:
        await duplicate(services)
    assert caught.value.id == "s2"
    with pytest.raises(SessionExists):
        await duplicate(services, "s1")
    assert await services.session("s2") == other
    assert len(services.directories) == services.sessions.count == 2
    services.gates["g"].set()


async def test_one_id_at_once(services: Services) -> None:
    """Of many that want one id exactly one gets it; the others leave nothing."""
    await services.create()
    await services.run("write file text")
    copies = [duplicate(services, skip_queue=number % 2 == 0) for number in range(10)]
    outcomes = await asyncio.gather(*copies, return_exceptions=True)
    assert sum(isinstance(one, Session) for one in outcomes) == 1
    assert sum(isinstance(one, SessionExists) for one in outcomes) == 9
    assert await files(services, "s2") == {"file": "text"}
    assert len(services.directories) == services.sessions.count == 2


async def test_refused(limited_services: Services) -> None:
    """No capacity, no source, a bad id and too large data are refused; nothing is left."""
    services = limited_services
    await services.create()
    await services.create("other")
    with pytest.raises(AtCapacity, match="2 sessions"):
        await duplicate(services)
    with pytest.raises(InvalidId):
        await duplicate(services, "../x")
    with pytest.raises(TooLarge):
        await duplicate(services, data={"a": "x" * 1_100_000})
    with pytest.raises(SessionNotFound):
        await services.sessions.duplicate("gone", DuplicateRequest())
    assert len(services.directories) == services.sessions.count == 2
    await services.sessions.delete("other")
    await duplicate(services)


@pytest.mark.parametrize("problem", [InsufficientStorage("full"), TooLarge("many")])
@pytest.mark.parametrize("where", ["workspaces.copy", "store.create", "codes.find"])
async def test_failure(
    services: Services, monkeypatch: pytest.MonkeyPatch, where: str, problem: Exception
) -> None:
    """Every failure is raised; nothing is left, and the next duplicate works."""
    await services.create()
    await services.run("write file text")
    part, _, method = where.partition(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(services, part), method, failing(problem))
        with pytest.raises(type(problem)):
            await duplicate(services)
    assert len(services.directories) == services.sessions.count == 1
    await duplicate(services)


@pytest.mark.parametrize("n", [*range(0, 60, 3), 80, 100])
async def test_client_that_leaves(services: Services, n: int) -> None:
    """Whenever its client leaves, there is a whole duplicate, or nothing."""
    await services.create()
    await services.run("\n".join(f"write file{number} text" for number in range(50)))
    copying = asyncio.create_task(duplicate(services))
    await sleep_steps(n)
    copying.cancel()
    await asyncio.wait([copying])
    await until(lambda: not services.sessions._background._tasks)
    made = await services.store.find("s2")
    assert len(services.directories) == services.sessions.count == (1 if made is None else 2)
    if made is not None:
        assert len(await files(services, "s2")) == 50
    assert (await services.run("out next")).stdout == "next\n"


@pytest.mark.parametrize("skip_queue", [False, True])
async def test_source_deleted_while_it_is_copied(
    services: Services, gate: Gate, skip_queue: bool
) -> None:
    """The copy of a session that is deleted meanwhile ends at once, with 404, and is removed."""
    await services.create()
    await services.run("write file text")
    copying = asyncio.create_task(duplicate(services, skip_queue=skip_queue))
    await gate.wait()
    await services.sessions.delete("s1")
    with pytest.raises(SessionNotFound, match="s1"):
        await copying
    await until(lambda: not services.directories)
    assert services.sessions.count == 0


async def test_source_whose_directory_is_gone(services: Services) -> None:
    """A failure of the store is raised as it is."""
    session = await services.create()
    await services.workspaces.remove(session.directory)
    with pytest.raises(StorageFailed, match="gone"):
        await duplicate(services)
    assert services.sessions.count == 1


@pytest.mark.parametrize("skip_queue", [False, True])
async def test_server_that_stops(services: Services, gate: Gate, skip_queue: bool) -> None:
    """A server that stops ends the copying with an error; the next start finds nothing of it."""
    await services.create()
    await services.run("write file text")
    copying = asyncio.create_task(duplicate(services, skip_queue=skip_queue))
    await gate.wait()
    await services.sessions.aclose()
    with pytest.raises(ShuttingDown):
        await copying
    assert len(services.directories) == 1
    with pytest.raises(ShuttingDown):
        await duplicate(services)


async def test_half_copies_are_removed(services: Services) -> None:
    """The next start removes a copy that a killed server left: its directory has no session."""
    await services.create()
    half = await services.workspaces.create()
    (services.workspaces.session_paths(half).workspace / "file").write_text("half")
    await services.workspaces.reconcile({(await services.session()).directory})
    assert half not in services.directories


@pytest.mark.parametrize("way", ["own id", "all on a full disk"])
async def test_a_deletion_does_not_wait_for_a_duplicate_that_waits_for_it(
    services: Services, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The source's end waits for its copy alone, so that the new id may wait for that end."""
    copied, may_store = asyncio.Event(), asyncio.Event()
    find, find_code = services.store.find, services.codes.find
    delete_all = services.store.delete_all
    has_failed = False

    async def find_code_slowly(directory: str) -> object:
        copied.set()
        await may_store.wait()
        return await find_code(directory)

    async def find_nothing(session_id: str) -> None:
        """Acts as if the row had just been deleted."""

    async def fail_once() -> list[Session]:
        nonlocal has_failed
        if has_failed:
            return await delete_all()
        has_failed = True
        may_store.set()
        await sleep_steps(50)
        raise InsufficientStorage("full")

    await services.create()
    await services.run("write file text")  # from here on the row of the source is not read
    monkeypatch.setattr(services.codes, "find", find_code_slowly)
    if way == "own id":
        monkeypatch.setattr(services.store, "find", find_nothing)
    else:
        monkeypatch.setattr(services.store, "delete_all", fail_once)
    async with asyncio.timeout(20):
        copying = asyncio.create_task(duplicate(services, "s1" if way == "own id" else "s2"))
        await copied.wait()
        if way == "own id":
            monkeypatch.setattr(services.store, "find", find)
            deletion = asyncio.create_task(services.sessions.delete("s1"))
            await sleep_steps(50)
            may_store.set()
            await deletion
        else:
            assert await services.sessions.delete_all() == ["s1"]
        copy = await copying
    assert await services.session(copy.id) == copy
    assert len(services.directories) == services.sessions.count == 1

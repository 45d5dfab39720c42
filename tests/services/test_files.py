"""Files of sessions: quotas, preconditions, counts, and sessions deleted during uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from era_kernels.errors import (
    Conflict,
    EraError,
    InvalidPath,
    PreconditionFailed,
    QuotaExceeded,
    SessionNotFound,
)
from era_kernels.models import Submission
from era_kernels.services.files import FileService, unconditional
from era_kernels.storage.file_listing import FileChange
from era_kernels.storage.open_file import FileStatus
from tests.services.conftest import OpenServices
from tests.services.service_fixture import DATA, Services, sleep_briefly
from tests.waiting import until

QUOTA = 1000


@pytest.fixture
def services_with_small_quota(open_services: OpenServices) -> Services:
    """Makes services with a small quota, also for ephemeral sessions."""
    return open_services(max_workspace=QUOTA)


@pytest.fixture
def files(services: Services) -> FileService:
    return FileService(services.sessions, services.files, QUOTA)


async def put(
    files: FileService,
    path: str,
    data: bytes = b"new",
    session_id: str = "s1",
    precondition: Callable[[FileStatus | None], None] = unconditional,
) -> FileStatus:
    upload = await files.start_upload(session_id, path, len(data), precondition)
    try:
        await upload.write(data)
        return await files.put(session_id, path, upload, "", precondition)
    finally:
        upload.discard()


async def read(files: FileService, path: str) -> bytes:
    file = await files.open("s1", path)
    try:
        return b"".join([piece async for piece in file.read(0, file.status.size)])
    finally:
        await file.aclose()


async def test_counts(services: Services, files: FileService) -> None:
    """The session's counts are as of the last upload, also after a restart of the server."""
    await services.create()
    await put(files, "a", b"123")
    await put(files, "a", b"12345")
    await put(files, "b", b"1")
    await put(files, "node_modules/c", b"1")
    await files.delete("s1", "b")
    session = await services.session()
    assert (session.file_count, session.total_size) == (1, 5)
    await services.database.write(lambda connection: None)
    stored = await services.store.get("s1")
    assert (stored.file_count, stored.total_size) == (1, 5)


@pytest.mark.parametrize("path", [DATA, "../x", "", "a//b"])
async def test_paths(services: Services, files: FileService, path: str) -> None:
    """The data file is written through `data` only; other paths obey the rules of paths."""
    await services.create()
    expected = Conflict if path == DATA else InvalidPath
    with pytest.raises(expected):
        await files.start_upload("s1", path, 0)
    with pytest.raises(expected):
        await files.delete("s1", path)


async def test_unknown_session(services: Services, files: FileService) -> None:
    """Every call tells that there is no such session."""
    for call in (files.list_files("s1"), files.open("s1", "f"), files.delete("s1", "f")):
        with pytest.raises(SessionNotFound):
            await call
    with pytest.raises(SessionNotFound):
        await files.start_upload("s1", "f", 0)


# ---------------------------------------------------------------- quota


async def test_quota(services: Services, files: FileService) -> None:
    """The quota counts all files but the replaced one, and is checked before, during and after."""
    await services.create()
    await put(files, "a", b"x" * 600)
    with pytest.raises(QuotaExceeded):
        await files.start_upload("s1", "b", 401)
    incoming = await files.start_upload("s1", "b", 0)
    await incoming.write(b"x" * 400)
    with pytest.raises(QuotaExceeded):
        await incoming.write(b"x")
    incoming.discard()
    await put(files, "b", b"x" * 400)
    await put(files, "a", b"y" * 600)
    with pytest.raises(QuotaExceeded):
        await put(files, "c", b"x")
    await put(files, "c", b"")
    await files.delete("s1", "a")
    await put(files, "c", b"x" * 600)


async def test_quota_of_two_at_once(services: Services, files: FileService) -> None:
    """Two that fit alone do not fit together: the second one is refused in the end."""
    await services.create()
    both = [await files.start_upload("s1", path, 600) for path in ("a", "b")]
    for incoming in both:
        await incoming.write(b"x" * 600)
    await files.put("s1", "a", both[0], "")
    with pytest.raises(QuotaExceeded):
        await files.put("s1", "b", both[1], "")
    for incoming in both:
        incoming.discard()
    assert [file.path for file in (await files.list_files("s1")).files] == ["a"]


async def test_quota_of_what_is_hidden(services: Services, files: FileService) -> None:
    """Hidden files, which lists leave out, count as well."""
    await services.create()
    await put(files, "node_modules/a", b"x" * 600)
    with pytest.raises(QuotaExceeded):
        await put(files, "node_modules/b", b"x" * 600)
    await put(files, "node_modules/a", b"x" * 1000)


async def test_quota_and_holes(services: Services, files: FileService) -> None:
    """A hole of any size that code made makes no room."""
    await services.create()
    await put(files, "a", b"x" * 600)
    with (await services.workspace() / "hole").open("w") as hole:
        hole.truncate(2**40)
    with pytest.raises(QuotaExceeded):
        await files.start_upload("s1", "hole", QUOTA + 1)


# ---------------------------------------------------------------- conditions


def if_absent(status: FileStatus | None) -> None:
    if status is not None:
        raise PreconditionFailed("There is one.")


async def test_precondition(services: Services, files: FileService) -> None:
    """A change whose precondition fails is refused before the body and after it."""
    await services.create()
    incoming = await files.start_upload("s1", "f", 0, if_absent)
    await put(files, "f", b"first")
    with pytest.raises(PreconditionFailed):
        await files.put("s1", "f", incoming, "", if_absent)
    incoming.discard()
    with pytest.raises(PreconditionFailed):
        await files.start_upload("s1", "f", 0, if_absent)
    with pytest.raises(PreconditionFailed):
        await files.delete("s1", "f", if_absent)
    assert await read(files, "f") == b"first"


async def test_one_of_many_wins(services: Services, files: FileService) -> None:
    """Check and change are one step: of many that create, one does."""
    await services.create()

    async def create(number: int) -> bool:
        try:
            await put(files, "f", b"%d" % number, precondition=if_absent)
        except PreconditionFailed:
            return False
        return True

    won = await asyncio.gather(*(create(number) for number in range(10)))
    assert won.count(True) == 1
    assert await read(files, "f") == b"%d" % won.index(True)


# ---------------------------------------------------------------- sessions that go


async def test_deleted_meanwhile(services: Services, files: FileService) -> None:
    """An upload never reaches another session that has the id by now."""
    await services.create()
    incoming = await files.start_upload("s1", "f", 3)
    await incoming.write(b"abc")
    await services.sessions.delete("s1")
    with pytest.raises(SessionNotFound):
        await files.put("s1", "f", incoming, "")
    await services.create()
    with pytest.raises(SessionNotFound):
        await files.put("s1", "f", incoming, "")
    incoming.discard()
    assert (await files.list_files("s1")).count == 0


@pytest.mark.parametrize("n", range(0, 60, 6))
async def test_delete_and_put_at_once(services: Services, files: FileService, n: int) -> None:
    """Whoever comes first, nothing of the session is left."""
    await services.create()
    putting = asyncio.create_task(put(files, "d/f"))
    for _ in range(n):
        await asyncio.sleep(0.0001)
    await services.sessions.delete("s1")
    try:
        await putting
    except EraError as refusal:
        assert isinstance(refusal, SessionNotFound), refusal
    assert services.directories == []
    await until(lambda: not any((services.path / "incoming").iterdir()))


async def test_delete_waits_for_a_put(services: Services) -> None:
    """A change of files that has begun ends first, so that nothing grows while it is removed."""
    session = await services.create()

    async def slow() -> FileChange:
        await asyncio.sleep(0.2)  # longer than a deletion takes
        workspace = services.workspaces.session_paths(session.directory).workspace
        assert workspace.is_dir()
        (workspace / "f").touch()
        return FileChange("f", None, (1, 0, 0))

    async with services.sessions.borrow("s1") as live:
        changing = asyncio.create_task(live.change_file(slow))
        await sleep_briefly()
        late = asyncio.create_task(live.change_file(slow))
        await services.sessions.delete("s1")
    await changing
    assert services.directories == []
    with pytest.raises(SessionNotFound):
        await late


# ---------------------------------------------------------------- ephemeral sessions


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"ok": "", "../x": ""}, InvalidPath),
        ({"a": "", "a/b": ""}, Conflict),
        ({DATA: "{}"}, Conflict),
        ({"a": "é" * 300, "b": "x" * 401}, QuotaExceeded),
    ],
)
async def test_execute_with_files_refused(
    services_with_small_quota: Services, given: dict[str, str], refusal: type[EraError]
) -> None:
    """The rules of paths and the quota hold, and nothing is left."""
    services = services_with_small_quota
    with pytest.raises(refusal):
        await services.sessions.execute("alpha", Submission("", files=given))
    await until(lambda: not services.directories)
    assert not any((services.path / "incoming").iterdir())
    assert services.host.machines == []

"""Files by path: what is a path, reading, putting and deleting, and what hostile code leaves."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from tornado.ioloop import IOLoop

from era_kernels.errors import (
    Conflict,
    EraError,
    FileNotFound,
    InsufficientStorage,
    InvalidPath,
    SessionNotFound,
    StorageFailed,
)
from era_kernels.safe_fs.tree import closing_fd as closing
from era_kernels.safe_fs.tree import remove_tree
from era_kernels.storage import uploads as uploads_module
from era_kernels.storage.file_listing import FileChange
from era_kernels.storage.files import FileStore, validate_path
from tests.conftest import entered
from tests.storage.stores import ROOT, small_disk
from tests.waiting import until

DIRECTORY = "0123456789abcdef"


@asynccontextmanager
async def open_files(path: Path) -> AsyncIterator[FileStore]:
    """The files of one session in a data directory."""
    workspace_of(path).mkdir(parents=True, exist_ok=True)
    files = FileStore(path / "sessions", path / "incoming")
    try:
        await files.remove_unfinished()
        yield files
    finally:
        await files.aclose()


def workspace_of(path: Path) -> Path:
    return path / "sessions" / DIRECTORY / "workspace"


async def put(
    files: FileStore, path: str, data: bytes = b"new", content_type: str = ""
) -> FileChange:
    upload = await files.create_upload()
    try:
        await upload.write(data)
        await upload.finish(content_type)
        return await files.put(DIRECTORY, path, upload)
    finally:
        upload.discard()


async def read(files: FileStore, path: str, start: int = 0, stop: int | None = None) -> bytes:
    file = await files.open(DIRECTORY, path)
    try:
        stop = file.status.size if stop is None else stop
        return b"".join([piece async for piece in file.read(start, stop)])
    finally:
        await file.aclose()


@pytest.fixture
def files(io_loop: IOLoop, tmp_path: Path) -> Iterator[FileStore]:
    with entered(io_loop, open_files(tmp_path)) as files:
        yield files


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    ["a", "a/b", "...", "..a", "a..", " ", "a b", "é", "\\", "a\\..\\b", "\n", "\udcff", "~", "-",
     "x" * 255, "é" * 127, "a/" * 2047 + "b", ".hidden", "C:"],
)  # fmt: skip
def test_paths(path: str) -> None:
    """A path is what Linux takes as one, as it was given."""
    assert validate_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", "./a", "a/.", "a/./b", "\0",
     "a\0b", "x" * 256, "é" * 128, "\udcff" * 256, "a/" * 2047 + "bcd"],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    """Nothing is normalised: what would need it is refused."""
    with pytest.raises(InvalidPath):
        validate_path(path)


async def test_every_call_checks_its_path(files: FileStore) -> None:
    """No way to a file goes around the check."""
    upload = await files.create_upload()
    for call in (
        files.open(DIRECTORY, "../x"),
        files.find(DIRECTORY, "../x"),
        files.put(DIRECTORY, "../x", upload),
        files.write(DIRECTORY, "../x", b""),
        files.delete(DIRECTORY, "../x"),
    ):
        with pytest.raises(InvalidPath):
            await call
    upload.discard()


# ---------------------------------------------------------------- put, read, delete


async def test_put_and_read(tmp_path: Path) -> None:
    """What was put is read, whole or in part, with its size, type and a time of whole seconds."""
    async with open_files(tmp_path) as files:
        data = os.urandom(3_000_000)
        change = await put(files, "a/b/c.bin", data, "image/png")
        assert (change.path, change.before, change.count_delta, change.size_delta) == (
            "a/b/c.bin", None, 1, len(data),
        )  # fmt: skip
        assert await read(files, "a/b/c.bin") == data
        assert await read(files, "a/b/c.bin", 999_999, 2_000_001) == data[999_999:2_000_001]
        file = await files.open(DIRECTORY, "a/b/c.bin")
        await file.aclose()
        await file.aclose()
        assert (file.status.size, file.status.content_type) == (len(data), "image/png")
        assert file.status.modified_at.microsecond == 0
        found = await files.find(DIRECTORY, "a/b/c.bin")
        assert found is not None
        assert (found.etag, found.size) == (file.status.etag, len(data))
    assert not list((tmp_path / "incoming").iterdir())


async def test_put_replaces(files: FileStore, tmp_path: Path) -> None:
    """A new file takes the name; who reads the old one reads on, and other names keep it."""
    await put(files, "f", b"old")
    os.link(workspace_of(tmp_path) / "f", tmp_path / "other")
    file = await files.open(DIRECTORY, "f")
    change = await put(files, "f", b"newer")
    assert (change.count_delta, change.size_delta) == (0, 2)
    assert [piece async for piece in file.read(0, 3)] == [b"old"]
    await file.aclose()
    assert await read(files, "f") == b"newer"
    assert (tmp_path / "other").read_bytes() == b"old"
    new = await files.find(DIRECTORY, "f")
    assert new is not None and new.etag != file.status.etag


async def test_delete(files: FileStore, tmp_path: Path) -> None:
    """A file goes, a link goes itself, a directory is a conflict."""
    workspace = workspace_of(tmp_path)
    await put(files, "d/f", b"123")
    (workspace / "link").symlink_to("d/f")
    assert (await files.delete(DIRECTORY, "link")).count_delta == 0
    with pytest.raises(Conflict):
        await files.delete(DIRECTORY, "d")
    change = await files.delete(DIRECTORY, "d/f")
    assert (change.count_delta, change.size_delta) == (-1, -3)
    for path in ("d/f", "no/f", "d/f/x"):
        with pytest.raises(FileNotFound):
            await files.delete(DIRECTORY, path)


async def test_change_tells_the_path_without_links(files: FileStore, tmp_path: Path) -> None:
    """A file that was put through a link is known by the path under which a walk finds it."""
    workspace = workspace_of(tmp_path)
    (workspace / "real").mkdir()
    (workspace / "link").symlink_to("real")
    (workspace / "here").symlink_to(".")
    assert (await put(files, "link/new/f")).path == "real/new/f"
    assert (await put(files, "here/f")).path == "f"
    assert (await files.delete(DIRECTORY, "link/new/f")).path == "real/new/f"


async def test_write(tmp_path: Path) -> None:
    """A small file of a short session; what cannot be put leaves nothing."""
    async with open_files(tmp_path) as files:
        await files.write(DIRECTORY, "a/f", b"text")
        assert await read(files, "a/f") == b"text"
        with pytest.raises(Conflict):
            await files.write(DIRECTORY, "a", b"")
        with pytest.raises(SessionNotFound):
            await files.write("f" * 16, "a", b"")
    assert not list((tmp_path / "incoming").iterdir())


async def test_used_bytes(files: FileStore) -> None:
    """Every file counts, also those that lists leave out."""
    await put(files, "f", b"123")
    await put(files, "node_modules/deep/m", b"12345")
    assert await files.used_bytes(DIRECTORY) == 8


async def test_used_bytes_are_added_up_once(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks meanwhile shares the next walk; uploads go on in threads of their own."""
    await put(files, "f", b"123")
    gate, walks = threading.Event(), []
    measure = files._used_bytes

    def measure_slowly(directory: str) -> int:
        walks.append(directory)
        gate.wait(20)
        return measure(directory)

    monkeypatch.setattr(files, "_used_bytes", measure_slowly)
    asking = [asyncio.create_task(files.used_bytes(DIRECTORY)) for _ in range(20)]
    await asyncio.sleep(0.05)
    await put(files, "g", b"1234")
    gate.set()
    assert (await asyncio.gather(*asking))[1:] == [7] * 19
    assert walks == [DIRECTORY] * 2


@pytest.mark.parametrize("path", ["f/x", "f/x/y", "d", "d/d"])
async def test_in_the_way(files: FileStore, tmp_path: Path, path: str) -> None:
    """A file where a directory is needed, a directory where a file is: Conflict."""
    (workspace_of(tmp_path) / "d/d").mkdir(parents=True)
    await put(files, "f", b"old")
    with pytest.raises(Conflict):
        await put(files, path)
    assert await read(files, "f") == b"old"


async def test_session_that_is_gone(files: FileStore, tmp_path: Path) -> None:
    """Every call raises SessionNotFound after the session was deleted."""
    upload = await files.create_upload()
    await upload.finish("")
    (tmp_path / "sessions" / DIRECTORY).rename(tmp_path / "sessions" / "removed")
    for call in (
        files.open(DIRECTORY, "f"), files.find(DIRECTORY, "f"),
        files.put(DIRECTORY, "f", upload), files.delete(DIRECTORY, "f"),
    ):  # fmt: skip
        with pytest.raises(SessionNotFound):
            await call
    upload.discard()


@pytest.mark.parametrize("instead", ["nothing", "a file", "a link out", "a FIFO"])
async def test_workspace_that_code_replaced(files: FileStore, tmp_path: Path, instead: str) -> None:
    """There are no files then, and a put makes the directory anew."""
    workspace, outside = workspace_of(tmp_path), tmp_path / "outside"
    workspace.rmdir()
    outside.mkdir()
    (outside / "f").write_text("secret")
    if instead == "a file":
        workspace.write_text("")
    elif instead == "a link out":
        workspace.symlink_to(outside)
    elif instead == "a FIFO":
        os.mkfifo(workspace)
    assert await files.find(DIRECTORY, "f") is None
    for call in (files.open(DIRECTORY, "f"), files.delete(DIRECTORY, "f")):
        with pytest.raises(FileNotFound):
            await call
    await put(files, "d/f", b"mine")
    assert await read(files, "d/f") == b"mine"
    assert [path.name for path in outside.iterdir()] == ["f"]


@pytest.mark.parametrize("count", [1, 300, 2000])
async def test_depth(tmp_path: Path, count: int) -> None:
    """As many parents as a path can hold are made, without recursion."""
    async with open_files(tmp_path) as files:
        path = "d/" * count + "f"
        await put(files, path, b"deep")
        assert await read(files, path) == b"deep"
    with closing(
        os.open(tmp_path, os.O_PATH)
    ) as parent:  # too deep for those who clean up after tests
        remove_tree(parent, "sessions")


async def test_any_time(tmp_path: Path) -> None:
    """Code may set any time that the file system takes."""
    with small_disk(tmp_path) as disk:
        async with open_files(disk) as files:
            for seconds in (0, -1, -(2**55), 2**40, 2**55):
                await put(files, "f")
                os.utime(workspace_of(disk) / "f", (0, seconds))
                found = await files.find(DIRECTORY, "f")
                assert found is not None
                assert 1 <= found.modified_at.year <= 9999


# ---------------------------------------------------------------- shut out

SHUT_OUT = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from era_kernels.errors import EraError
from tests.storage.test_files import DIRECTORY, open_files, put, read
path = Path(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)

async def report(call):
    try:
        await call
        print("fine")
    except EraError as refusal:
        print(type(refusal).__name__)

async def main():
    async with open_files(path) as files:
        for name in ("unreadable", "stuck/f", "closed/f"):
            await put(files, name)
        workspace = path / "sessions" / DIRECTORY / "workspace"
        (workspace / "unreadable").chmod(0)
        (workspace / "stuck").chmod(0o555)
        (workspace / "closed").chmod(0)
        for name in ("unreadable", "stuck/f", "closed/f"):
            await report(read(files, name))
            await report(files.find(DIRECTORY, name))
            await report(put(files, name))
            await report(files.delete(DIRECTORY, name))
        await report(put(files, "stuck/new/f"))
        workspace.chmod(0)
        await report(put(files, "f"))
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
def test_what_code_has_shut() -> None:
    """For a server that is not root, what code has shut is Conflict, and never a failure."""
    with tempfile.TemporaryDirectory() as data:  # where another user may go
        os.chown(data, 65534, 65534)
        result = subprocess.run(
            [sys.executable, "-c", SHUT_OUT, data],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    conflict = "Conflict"
    assert result.stdout.split() == [
        conflict, "fine", "fine", "fine",  # a mode keeps from reading, not from replacing
        "fine", "fine", conflict, conflict,
        conflict, conflict, conflict, conflict,
        conflict, "fine",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file of another user")
async def test_hard_links_to_files_of_others(files: FileStore, tmp_path: Path) -> None:
    """A file of somebody else that has another name is not read; the session's own are."""
    for name, owner in (("mine", 0), ("theirs", 65534)):
        (tmp_path / name).write_text(name)
        os.chown(tmp_path / name, owner, owner)
        (workspace_of(tmp_path) / name).hardlink_to(tmp_path / name)
    assert await read(files, "mine") == b"mine"
    with pytest.raises(FileNotFound):
        await read(files, "theirs")


# ---------------------------------------------------------------- uploads


async def test_upload_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is kept in memory, whatever the sizes of the writes."""
    monkeypatch.setattr(uploads_module, "CHUNK_BYTES", 1000)

    async with open_files(tmp_path) as files:
        upload = await files.create_upload()
        for size in (1, 999, 1, 5000, 0, 998):
            await upload.write(b"x" * size)
        assert upload.size == 6999
        [temporary] = (tmp_path / "incoming").iterdir()
        await until(lambda: temporary.stat().st_size >= 1000)
        await upload.finish("")
        assert temporary.stat().st_size == 6999
        assert stat.S_IMODE(temporary.stat().st_mode) & 0o111 == 0
        upload.discard()
        upload.discard()
    assert not temporary.exists()


async def test_discarded_upload(tmp_path: Path) -> None:
    """Whatever was under way, nothing is left: no file, no descriptor, no complaint."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with open_files(tmp_path) as files:
        for _ in range(20):
            upload = await files.create_upload()
            await upload.write(b"x" * 1_000_000)
            upload.discard()
        late = await files.create_upload()
    late.discard()  # when the store is closed: its file is swept at the next start
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208
    assert len(list((tmp_path / "incoming").iterdir())) <= 1
    async with open_files(tmp_path):
        assert not list((tmp_path / "incoming").iterdir())

    assert complaints == []


async def test_remove_unfinished(tmp_path: Path) -> None:
    """At a start what a former server was taking is removed, and nothing else."""
    (tmp_path / "incoming" / "kept").mkdir(parents=True)
    for name in ("0123456789abcdef", "notes.txt"):
        (tmp_path / "incoming" / name).write_text("half")

    async with open_files(tmp_path):
        names = sorted(path.name for path in (tmp_path / "incoming").iterdir())
        assert names == ["kept", "notes.txt"]


async def test_full_disk(tmp_path: Path) -> None:
    """No room: InsufficientStorage, the old file stays, and afterwards there is room again."""
    with small_disk(tmp_path) as disk:
        async with open_files(disk) as files:
            await put(files, "f", b"old")
            with pytest.raises(InsufficientStorage):
                await put(files, "f", b"x" * 3_000_000)
            assert await read(files, "f") == b"old"
            await put(files, "f", b"x" * 500_000)
            assert len(await read(files, "f")) == 500_000
            assert not list((disk / "incoming").iterdir())


async def test_closed(tmp_path: Path) -> None:
    """After the end every call is refused."""
    async with open_files(tmp_path) as files:
        pass
    await files.aclose()
    with pytest.raises(StorageFailed):
        await files.open(DIRECTORY, "f")


# ---------------------------------------------------------------- races


@contextmanager
def racing(workspace: Path, code: str) -> Iterator[None]:
    """A process that changes the workspace in a loop meanwhile."""
    loop = f"import contextlib, os, shutil\nprint(flush=True)\nwhile True:\n    {code}"
    with subprocess.Popen(
        [sys.executable, "-c", loop], cwd=workspace, stdout=subprocess.PIPE
    ) as racer:
        assert racer.stdout is not None
        racer.stdout.readline()
        try:
            yield
        finally:
            racer.kill()


@pytest.mark.parametrize(
    "code",
    [
        "with contextlib.suppress(OSError): os.makedirs('a/b'); os.rmdir('a/b'); os.rmdir('a')",
        "with contextlib.suppress(OSError): os.symlink('../..', 'a'); os.unlink('a')",
        "with contextlib.suppress(OSError): os.mkfifo('a'); os.unlink('a'); open('a', 'w').close()",
    ],
)
async def test_parents_that_come_and_go(tmp_path: Path, code: str) -> None:
    """Directories that vanish while they are made: the file is there or it is a Conflict."""
    async with open_files(tmp_path) as files:
        with racing(workspace_of(tmp_path), code):
            for _ in range(300):
                for call in (
                    put(files, "a/b/c/f"), read(files, "a/b/c/f"),
                    files.delete(DIRECTORY, "a/f"),
                ):  # fmt: skip
                    try:
                        await call
                    except EraError as refusal:
                        assert isinstance(refusal, Conflict | FileNotFound), refusal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incoming", "sessions"]


async def test_nothing_blocks_the_loop(files: FileStore) -> None:
    """No call on files blocks the event loop."""
    with blockbuster_ctx("era_kernels"):
        await put(files, "d/f", b"x" * 2_000_000, "a/b")
        await read(files, "d/f")
        await files.write(DIRECTORY, "g", b"x")
        await files.find(DIRECTORY, "g")
        await files.used_bytes(DIRECTORY)
        await files.delete(DIRECTORY, "g")
        await files.remove_unfinished()

"""A backup holds off unlinking while it copies, links or copies blobs, and tells what is lost."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.safe_fs import copy as tree_copy
from era_kernels.storage.backup import Contents, back_up, restore
from era_kernels.storage.data_directory import DataDirectory
from tests.storage.stores import open_stores, small_disk
from tests.storage.test_r2 import Objects, open_objects


def ignore(what: str, done: int, total: int) -> None:
    """Takes progress that no one reads."""


async def copied(source: Path, target: Path) -> Contents:
    return await asyncio.to_thread(back_up, source, target, ignore)


async def filled(objects: Objects, count: int = 5) -> None:
    for number in range(count):
        await objects.put(f"k{number}", bytes([number]) * 1000)


async def restored(backup: Path, target: Path) -> dict[str, bytes]:
    """Restores a backup and returns the objects in it."""
    await asyncio.to_thread(restore, backup, target, ignore)
    async with open_objects(target) as objects:
        assert objects.store.lost_count == 0
        listed, _ = await objects.store.list("n")
        return {one.key: await objects.get(one.key) for one in listed}


async def test_lock_is_held(tmp_path: Path) -> None:
    """From before the database is copied until the last blob is, no blob may be unlinked."""
    data, seen = tmp_path / "data", []
    data.mkdir()

    def look(what: str, done: int, total: int) -> None:
        descriptor = os.open(data / "unlink.lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            seen.append(what)
        finally:
            os.close(descriptor)

    async with open_objects(data) as objects:
        await filled(objects)
        await asyncio.to_thread(back_up, data, tmp_path / "backup", look)
        assert seen == ["objects"] * 5
        descriptor = os.open(data / "unlink.lock", os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


async def test_objects(tmp_path: Path) -> None:
    """Objects are linked on one file system, and come back whole; the rest is not touched."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with open_objects(data) as objects:
        await filled(objects)
        (data / "r2" / "incoming" / "half").write_bytes(b"x")
        assert await copied(data, backup) == Contents(5, 0, 0)
        [blob, *_] = sorted(path.name for path in objects.blobs())
        assert (backup / "r2" / blob[:2] / blob).stat().st_nlink == 2
        assert not (backup / "r2" / "incoming").exists()
        await objects.put("later", b"x")
    expected = {f"k{number}": bytes([number]) * 1000 for number in range(5)}
    for name in ("one", "two"):
        assert await restored(backup, tmp_path / name) == expected
    assert json.loads((backup / "backup.json").read_text())["objects"] == 5


async def test_other_file_system(tmp_path: Path) -> None:
    """Where links cannot be made, blobs are copied."""
    data = tmp_path / "data"
    data.mkdir()
    with small_disk(tmp_path, "8M") as disk:
        async with open_objects(data) as objects:
            await filled(objects)
            assert await copied(data, disk / "backup") == Contents(5, 0, 0)
        assert len(await restored(disk / "backup", tmp_path / "again")) == 5


async def test_lost_objects(tmp_path: Path) -> None:
    """Objects without bytes are told, and do not keep the others from being backed up."""
    data = tmp_path / "data"
    data.mkdir()
    async with open_objects(data) as objects:
        await filled(objects)
        objects.blobs()[0].unlink()
        assert await copied(data, tmp_path / "backup") == Contents(4, 0, 0, lost_objects=1)
    found = await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "again", ignore)
    assert found.lost_objects == 1


async def test_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that rows name are copied, links as links; one with too many files is told."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with open_stores(data) as stores:
        session = await stores.create_session()
        await stores.create_session("s2")
        workspace = data / "sessions" / session.directory / "workspace"
        (workspace / "f").write_text("kept")
        (workspace / "link").symlink_to("/etc/passwd")
        (data / "sessions" / "0123456789abcdef").mkdir()
        assert await copied(data, backup) == Contents(0, 0, 2)
        monkeypatch.setattr(tree_copy, "MAX_ENTRIES", 5)
        assert (await copied(data, tmp_path / "small")).partial_sessions == 1
    copy = backup / "sessions" / session.directory / "workspace"
    assert (copy / "f").read_text() == "kept"
    assert (copy / "link").is_symlink()
    assert len(list((backup / "sessions").iterdir())) == 2


async def test_code_keeps_nobody_else_from_a_backup(tmp_path: Path) -> None:
    """A session with a file that code keeps for itself is told; the others are in the backup."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with open_stores(data) as stores:
        hostile = await stores.create_session()
        other = await stores.create_session("s2")
        sessions = data / "sessions"
        (sessions / other.directory / "workspace" / "f").write_text("kept")
        leased = sessions / hostile.directory / "workspace" / "leased"
        leased.write_text("x")
        with leased.open("r+") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            before = signal.signal(signal.SIGIO, signal.SIG_IGN)
            try:
                contents = await copied(data, backup)
            finally:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                signal.signal(signal.SIGIO, before)
    assert contents == Contents(0, 0, 2, partial_sessions=1)
    copy = backup / "sessions" / other.directory / "workspace" / "f"
    assert copy.read_text() == "kept"


async def test_a_locked_directory_is_not_restored_into(tmp_path: Path) -> None:
    """A directory that a server has just begun to use is refused."""
    data, target = tmp_path / "data", tmp_path / "target"
    data.mkdir()
    async with open_objects(data):
        await copied(data, tmp_path / "backup")
    directory = DataDirectory.open(target)
    with pytest.raises(StartError, match="Another server"):
        await asyncio.to_thread(restore, tmp_path / "backup", target, ignore)
    directory.close()
    await asyncio.to_thread(restore, tmp_path / "backup", target, ignore)


@pytest.mark.parametrize(
    ("table", "column"), [("r2_objects", "blob"), ("sessions", "directory")], ids=["r2", "sessions"]
)
@pytest.mark.parametrize(
    "name",
    ["../../outside", "/etc/hostname", "..", ".", "", "ab/cd", "A" * 32, "a" * 33, "a" * 31 + "\n"],
)
async def test_hostile_names(tmp_path: Path, table: str, column: str, name: str) -> None:
    """A backup with a row that names a file outside is refused: nothing is read or made there."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with open_stores(data) as stores:
        await stores.create_session()
    async with open_objects(data) as objects:
        await filled(objects, 1)
    await copied(data, backup)
    with closing(sqlite3.connect(backup / "era.db")) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ?", (name,))
    (tmp_path / "outside").write_text("secret")
    before = {path for path in tmp_path.rglob("*") if "target" not in path.parts}
    with pytest.raises(StartError, match="names files that no server has made"):
        await asyncio.to_thread(restore, backup, tmp_path / "target", ignore)
    assert {path for path in tmp_path.rglob("*") if "target" not in path.parts} == before
    assert not (tmp_path / "target" / "era.db").exists()


def to_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def to_pipe(path: Path) -> None:
    os.mkfifo(path)


def to_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("replace", [to_link, to_pipe, to_directory])
async def test_files_that_are_none(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    """Links, pipes and directories in the place of files are not followed, opened or waited for."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with open_objects(data) as objects:
        await filled(objects, 2)
        blob = objects.blobs()[0]
    (data / "d1").mkdir()
    with closing(sqlite3.connect(data / "d1" / "n.db")) as database:
        database.execute("CREATE TABLE t (a)")
    await copied(data, backup)
    for path in (backup / blob.relative_to(data), backup / "d1" / "n.db", backup / "secret"):
        path.unlink(missing_ok=True)
        replace(path)
    found = await asyncio.to_thread(restore, backup, tmp_path / "again", ignore)
    assert found == Contents(1, 0, 0, lost_objects=1, damaged_databases=1)
    assert not (tmp_path / "again" / "secret").exists()
    assert list((tmp_path / "again" / "d1").iterdir()) == []
    (backup / "era.db").unlink()
    replace(backup / "era.db")
    with pytest.raises(StartError, match="no whole backup"):
        await asyncio.to_thread(restore, backup, tmp_path / "third", ignore)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_damaged_databases(tmp_path: Path, content: bytes) -> None:
    """A damaged database of D1 is copied as it is, told, and keeps nothing from being copied."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    async with open_objects(data) as objects:
        await filled(objects, 1)
    (data / "d1").mkdir()
    (data / "d1" / "bad.db").write_bytes(content)
    with closing(sqlite3.connect(data / "d1" / "good.db")) as database:
        database.execute("CREATE TABLE t (a)")
    expected = Contents(1, 1, 0, damaged_databases=1)
    assert await copied(data, backup) == expected
    assert await asyncio.to_thread(restore, backup, tmp_path / "again", ignore) == expected
    assert (tmp_path / "again" / "d1" / "bad.db").read_bytes() == content

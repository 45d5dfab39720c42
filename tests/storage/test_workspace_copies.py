"""Copies of sessions' directories: what a duplicate gets, and what is left when it fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from era_kernels.errors import InsufficientStorage, StorageFailed
from era_kernels.storage.workspaces import SUBDIRECTORIES, CopyCancelled, Workspaces
from tests.storage.stores import small_disk

DATA_FILE_NAME = ".session_data.json"
CONTENT_TYPE = "user.era_kernels.content_type"


@asynccontextmanager
async def a_session(path: Path) -> AsyncIterator[tuple[Workspaces, str]]:
    """The workspaces in a directory, with one session's."""
    workspaces = Workspaces(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield workspaces, await workspaces.create()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    await workspaces.aclose()


def never() -> bool:
    return False


async def test_what_is_copied(tmp_path: Path) -> None:
    """Files and packages go into the copy; runs, caches and state do not; data are written."""
    async with a_session(tmp_path) as (workspaces, source):
        target = await workspaces.create()
        for part in SUBDIRECTORIES:
            (tmp_path / source / part / "deep").mkdir()
            (tmp_path / source / part / "deep" / "file").write_text(part)
        await workspaces.write_data_file(source, {"old": 1}, None)
        snapshot = await workspaces.copy(source, target, {"new": 2}, never)
        assert (snapshot.count, snapshot.total_size) == (1, len("workspace"))
        assert snapshot == await workspaces.scan(target)
        new = tmp_path / target
        files = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()}
        assert files == {
            f"workspace/{DATA_FILE_NAME}", "workspace/deep/file", "packages/deep/file", "unfinished"
        }  # fmt: skip
        assert json.loads((new / "workspace" / DATA_FILE_NAME).read_text()) == {"new": 2}
        old = tmp_path / source / "workspace" / DATA_FILE_NAME
        assert json.loads(old.read_text()) == {"old": 1}


async def test_content_types_are_copied(tmp_path: Path) -> None:
    """The content type that an uploader named is copied; other attributes of code are not."""
    async with a_session(tmp_path) as (workspaces, source):
        file = tmp_path / source / "workspace" / "file"
        file.write_text("x")
        try:
            os.setxattr(file, CONTENT_TYPE, b"text/x-mine")
            os.setxattr(file, "user.other", b"1")
        except OSError:
            pytest.skip("this file system has no user attributes")
        target = await workspaces.create()
        await workspaces.copy(source, target, {}, never)
        copy = tmp_path / target / "workspace" / "file"
        assert os.listxattr(copy) == [CONTENT_TYPE]
        assert os.getxattr(copy, CONTENT_TYPE) == b"text/x-mine"


async def test_a_cancelled_copy(tmp_path: Path) -> None:
    """A cancelled copy ends soon; what was copied can be removed."""
    async with a_session(tmp_path) as (workspaces, source):
        (tmp_path / source / "workspace" / "file").write_text("x")
        target = await workspaces.create()
        with pytest.raises(CopyCancelled):
            await workspaces.copy(source, target, {}, lambda: True)
        await workspaces.remove(target)
        assert [path.name for path in tmp_path.iterdir()] == [source]


async def test_workspace_that_is_gone(tmp_path: Path) -> None:
    """Code removed its directory: the copy is empty. A missing session's directory is an error."""
    async with a_session(tmp_path) as (workspaces, source):
        target = await workspaces.create()
        shutil.rmtree(tmp_path / source / "workspace")
        assert (await workspaces.copy(source, target, {}, never)).count == 0
        shutil.rmtree(tmp_path / source)
        with pytest.raises(StorageFailed, match="gone"):
            await workspaces.copy(source, target, {}, never)


async def test_full_disk(tmp_path: Path) -> None:
    """A full disk is an error, the source stays whole, and with room the copy works."""
    with small_disk(tmp_path, "4M") as disk:
        async with a_session(disk) as (workspaces, source):
            file = disk / source / "workspace" / "file"
            file.write_bytes(b"x" * 2_500_000)
            target = await workspaces.create()
            with pytest.raises(InsufficientStorage):
                await workspaces.copy(source, target, {}, never)
            await workspaces.remove(target)
            assert file.read_bytes() == b"x" * 2_500_000
            file.write_bytes(b"y" * 1_000_000)
            target = await workspaces.create()
            assert (await workspaces.copy(source, target, {}, never)).total_size == 1_000_000


async def test_room_that_goes_meanwhile(tmp_path: Path) -> None:
    """A copy ends where what is left has become too little for anything new."""
    calls = 0

    def check_room() -> None:
        nonlocal calls
        calls += 1
        if calls > 4:  # two directories were made
            raise InsufficientStorage("full")

    workspaces = Workspaces(tmp_path, check_room)
    source, target = await workspaces.create(), await workspaces.create()
    for number in range(9):
        (tmp_path / source / "workspace" / f"{number}").write_text("x")
    with pytest.raises(InsufficientStorage):
        await workspaces.copy(source, target, {}, never)
    await workspaces.remove(target)
    await workspaces.aclose()

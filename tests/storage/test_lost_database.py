"""A database that is lost, empty or another's is refused, and nothing is changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from era_kernels.errors import InsufficientStorage, StartError, StorageFailed
from era_kernels.models import StorageQuotas
from era_kernels.storage.data_directory import DataDirectory
from era_kernels.storage.lost_and_found import LostAndFound
from era_kernels.storage.lost_database import damage_errors, open_database, set_aside
from era_kernels.storage.r2 import R2Store
from tests.storage.stores import open_stores


async def fill(path: Path) -> None:
    """Makes a data directory with a session and an object."""
    with closing(DataDirectory.open(path)) as directory:
        async with open_stores(path) as stores:
            session = await stores.create_session()
            (directory.sessions / session.directory / "workspace" / "file").write_text("kept")
            store = R2Store(
                stores.database, directory.objects, directory.unlink_lock, StorageQuotas(), 1000
            )
            async with aclosing(store):
                await store.sweep()
                upload = await store.start_upload("n", "k", 4)
                await upload.write(b"kept")
                await store.put("n", "k", upload)


def kept(path: Path) -> set[tuple[str, str]]:
    """The files of sessions and objects, wherever they are below a directory."""
    return {
        (str(one), one.read_text()) for one in path.rglob("*")
        if one.is_file() and one.name != "lock" and "era.db" not in one.name
        and one.read_bytes() == b"kept"
    }  # fmt: skip


def lose(path: Path) -> None:
    for file in path.glob("era.db*"):
        file.unlink()


def empty(path: Path) -> None:
    lose(path)
    (path / "era.db").touch()


def exchange(path: Path) -> None:
    lose(path)
    shutil.copy(path.parent / "other" / "era.db", path)


@pytest.mark.parametrize("harm", [lose, empty, exchange])
async def test_a_lost_database(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """It is told what is there and what to do; the database put back, all is known as before."""
    await fill(tmp_path / "other")
    path = tmp_path / "data"
    await fill(path)
    shutil.copy(path / "era.db", tmp_path / "kept.db")
    before = kept(path)
    assert len(before) == 2
    harm(path)
    for _ in range(2):
        with closing(DataDirectory.open(path)) as directory, pytest.raises(StartError) as refused:
            await open_database(directory)
        for part in ("1 directories of sessions", "1 objects", "set-aside", str(path)):
            assert part in str(refused.value)
        assert kept(path) == before
    lose(path)
    shutil.copy(tmp_path / "kept.db", path / "era.db")
    with closing(DataDirectory.open(path)) as directory:
        await (await open_database(directory)).aclose()


@pytest.mark.parametrize("harm", [lose, empty, exchange])
async def test_setting_aside(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """What the database does not know is moved under a name that tells the old one and the time."""
    await fill(tmp_path / "other")
    path = tmp_path / "data"
    await fill(path)
    [session] = (path / "sessions").iterdir()
    harm(path)
    with closing(DataDirectory.open(path)) as directory:
        assert await set_aside(directory) == (1, 1)
        assert await set_aside(directory) == (0, 0)
        await (await open_database(directory)).aclose()
    names = [one.name for one in (path / "lost+found").iterdir()]
    assert any(re.fullmatch(rf"{session.name}\.\d{{8}}T\d{{6}}Z", name) for name in names)
    assert {text for _, text in kept(path / "lost+found")} == {"kept"}
    assert len(kept(path / "lost+found")) == 2


@pytest.mark.parametrize("part", ["secret", "era.db-wal", "d1/n.db"])
async def test_what_tells_that_there_was_a_database(tmp_path: Path, part: str) -> None:
    """Where nothing but the values of KV can be lost, the loss is told, too."""
    with closing(DataDirectory.open(tmp_path / "data")) as directory:
        (directory.path / part).parent.mkdir(exist_ok=True)
        (directory.path / part).write_bytes(b"x" * 32)
        with pytest.raises(StartError, match="is missing"):
            await open_database(directory)
        assert not directory.database.exists()


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """What has the same name, and comes in the same second, gets a number."""
    place = LostAndFound(tmp_path / "lost+found")
    for number in range(3):
        (tmp_path / "one").write_text(str(number))
        assert place.take(tmp_path / "one")
    assert sorted(path.read_text() for path in place.path.iterdir()) == ["0", "1", "2"]
    assert not place.take(tmp_path / "missing")


def test_damage_is_told() -> None:
    """A start that meets a damaged database says what to do; other causes keep their sentence."""
    told = pytest.raises(StartError, match=r"era.db is damaged \(.*malformed.*from a backup")
    with told, damage_errors(Path("era.db")):
        raise StorageFailed("The store failed: database disk image is malformed.")
    with pytest.raises(InsufficientStorage), damage_errors(Path("era.db")):
        raise InsufficientStorage("There is no room left.")

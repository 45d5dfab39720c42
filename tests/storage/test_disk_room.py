"""Room that is kept for deletions, and what is told when there is none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from era_kernels.errors import InsufficientStorage, StartError
from era_kernels.storage.data_directory import DataDirectory
from era_kernels.storage.database import Database
from era_kernels.storage.disk_room import DiskRoom
from era_kernels.storage.migrations import MIGRATIONS
from era_kernels.storage.secret import load_or_create_secret
from tests.storage.stores import small_disk

MIB = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, "64M") as disk:
        yield disk


def fill(path: Path, left: int = 0) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096 * 64))
    if left:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - left)


def test_ballast_comes_and_goes(disk: Path) -> None:
    """It is given back on a full disk, and made again when there is room for it and more."""
    room = DiskRoom(disk)
    room.adjust()
    ballast = disk / "ballast"
    assert (ballast.stat().st_size, ballast.stat().st_blocks * 512) == (4 * MIB, 4 * MIB)
    fill(disk / "filler", left=2 * MIB)
    room.adjust()
    assert ballast.exists()
    fill(disk / "filler2")
    room.adjust()
    assert not ballast.exists()
    room.adjust()
    (disk / "filler2").unlink()
    room.adjust()
    assert not ballast.exists()  # it would be given back at once
    (disk / "filler").unlink()
    ballast.touch()  # a server that was killed while it made it
    room.adjust()
    assert ballast.stat().st_size == 4 * MIB


def test_spare_inodes_come_and_go(tmp_path: Path) -> None:
    """Some are given back when hardly one is free, all are made again when many are."""
    with small_disk(tmp_path, "64M,nr_inodes=1600") as disk:
        room, spare = DiskRoom(disk), disk / "spare_inodes"
        room.adjust()
        assert len(list(spare.iterdir())) == 100
        with pytest.raises(OSError, match="No space"):
            for number in range(1600):
                (disk / f"file{number}").touch()
        with pytest.raises(InsufficientStorage, match="disk_reserve"):
            DiskRoom(disk, reserve=MIB).check()
        for left in (84, 68, 52):
            room.adjust()
            assert len(list(spare.iterdir())) == left
            for number in range(16):
                (disk / f"file{left}-{number}").touch()
        for file in disk.glob("file*"):
            file.unlink()
        room.adjust()
        assert len(list(spare.iterdir())) == 100
        DiskRoom(disk, reserve=MIB).check()


async def test_it_is_looked_after(disk: Path) -> None:
    """From the opening on, until it is closed; twice is fine."""
    room = DiskRoom(disk)
    await room.open()
    assert (disk / "ballast").exists()
    await room.aclose()
    await room.aclose()


async def test_database_takes_the_ballast(disk: Path) -> None:
    """A write on a full disk does not wait for the next look: the ballast is given back for it."""
    room = DiskRoom(disk)
    room.adjust()
    database = await Database.open(disk / "era.db", MIGRATIONS, make_room=room.adjust)
    try:
        fill(disk / "filler")
        await database.write(lambda one: one.execute("CREATE TABLE large (a)"))
        await database.write(lambda one: one.execute("INSERT INTO large VALUES (zeroblob(500000))"))
        assert not (disk / "ballast").exists()
        fill(disk / "filler2")
        with pytest.raises(InsufficientStorage):
            await database.write(
                lambda one: one.execute("INSERT INTO large VALUES (zeroblob(5000000))")
            )
    finally:
        await database.aclose()


@pytest.mark.parametrize("left", [0, 4096, 16384])
async def test_start_without_room(disk: Path, left: int) -> None:
    """Where not even the ballast is left to give back, a sentence says what to do."""
    await (await Database.open(disk / "era.db", MIGRATIONS)).aclose()
    before = (disk / "era.db").read_bytes()
    fill(disk / "filler", left)
    with pytest.raises(StartError, match=r"is full.* free 1 MiB"):
        await Database.open(disk / "era.db", MIGRATIONS)
    assert (disk / "era.db").read_bytes() == before
    (disk / "filler").unlink()
    await (await Database.open(disk / "era.db", MIGRATIONS)).aclose()


@pytest.mark.parametrize("what", ["directory", "secret"])
def test_first_start_without_room(disk: Path, what: str) -> None:
    """So it does for what a first start makes."""
    subprocess.run(["mount", "-o", "remount,nr_inodes=3", str(disk)], check=True)
    fill(disk / "filler")
    (disk / "last").touch()
    with pytest.raises(StartError, match=r"is full.* free 1 MiB"):
        if what == "secret":
            load_or_create_secret(disk / "secret")
        else:
            DataDirectory.open(disk / "data")


@pytest.mark.parametrize("reserve", [16 * MIB, None])
def test_reserve(disk: Path, reserve: int | None) -> None:
    """Less than the reserve is told with its name; without a reserve nothing is refused."""
    room = DiskRoom(disk, reserve)
    room.check()
    fill(disk / "filler", left=2 * MIB)
    with pytest.raises(InsufficientStorage, match="disk_reserve"):
        room.check()
    DiskRoom(disk, 0).check()
    (disk / "filler").unlink()
    room.check()


def test_the_server_stops_ahead_of_the_reserve(disk: Path) -> None:
    """What it writes leaves a quarter more: sessions that write themselves may go on."""
    room = DiskRoom(disk, 16 * MIB)
    fill(disk / "filler", left=21 * MIB)
    room.check()
    fill(disk / "more", left=18 * MIB)
    with pytest.raises(InsufficientStorage, match=r"less than 20 MiB left \(disk_reserve and a"):
        room.check()

"""A start that fails says why in a sentence, and leaves everything as it was."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from era_kernels.storage.data_directory import DataDirectory
from tests.server_process import Launcher, failed_start
from tests.storage.stores import small_disk


def state(directory: Path) -> list[tuple[str, int, bytes]]:
    """The names, modes and contents of a directory and all in it."""
    return [
        (str(path), path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in (directory, *sorted(directory.rglob("*")))
    ]


NO_WALLS = ("--strongest-tier", "2", "--min-tier", "1")  # fails after the database is open


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


def test_nothing_is_made(tmp_path: Path, taken_port: str) -> None:
    """Neither a data directory, nor its parents, nor a file in one that was there."""
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    for path in (tmp_path / "a" / "b", empty):
        before = state(tmp_path)
        assert "cannot listen" in failed_start(path, "--port", taken_port)
        assert "strongest_tier" in failed_start(path, *NO_WALLS)
        sentence = failed_start(path, "--session-memory", "16M")
        for part in ("session_memory is 16M", "kernelspecs", "64M", "--session-memory"):
            assert part in sentence
        assert state(tmp_path) == before


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    """It is named, with a file in it and the cure, and stays as it is; so does a database."""
    (tmp_path / "letters").mkdir(mode=0o755)
    (tmp_path / "letters" / "lock").write_text("mine")
    (tmp_path / "letters" / "dear.txt").write_text("x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "era.db").write_text("this is no database of anybody")
    (tmp_path / "foreign").mkdir()
    with closing(sqlite3.connect(tmp_path / "foreign" / "era.db")) as database:
        database.execute("CREATE TABLE theirs (x)")
    before = state(tmp_path)
    for name, part in (("letters", "dear.txt"), ("damaged", "damaged"), ("foreign", "not this")):
        sentence = failed_start(tmp_path / name)
        assert part in sentence
        assert str(tmp_path / name) in sentence
        assert "--data-dir" in sentence
    assert state(tmp_path) == before


def test_what_is_stored_stays(launcher: Launcher, tmp_path: Path) -> None:
    """A failed start on a directory in use by nobody changes nothing that is stored."""
    launcher.start().stop()
    data_dir = launcher.data_dir
    before = set(data_dir.rglob("*"))
    failed_start(data_dir, *NO_WALLS)
    assert before <= set(data_dir.rglob("*"))
    launcher.start()


def test_a_disk_of_its_own_is_no_foreign_directory(tmp_path: Path) -> None:
    """A new file system has a lost+found, made by mkfs(8), and is as good as empty."""
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    with closing(DataDirectory.open(tmp_path / "disk")):
        pass


def test_what_is_mounted_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Undoing a start reaches what it has made, and nothing that covers it since."""
    directory = DataDirectory.open(tmp_path / "disk")
    (tmp_path / "disk").rename(tmp_path / "away")  # `small_disk` makes its own
    with small_disk(tmp_path) as disk:
        os.chmod(disk, 0o755)  # noqa: PTH101
        (disk / "era.db").write_text("theirs")
        before = state(disk)
        directory.undo()
        assert state(disk) == before
    directory.close()
    assert not any((tmp_path / "away").iterdir())

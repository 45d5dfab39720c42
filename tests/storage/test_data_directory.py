"""The data directory: private, and for one server at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.storage.data_directory import DataDirectory, note_server_url, server_url
from tests.storage.stores import ROOT

HOLD = """
import sys
from pathlib import Path
from era_kernels.storage.data_directory import DataDirectory
directory = DataDirectory.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """Missing parents are made; the directory has mode 0700, also when it was wider."""
    path = tmp_path / "a" / "b"
    for _ in range(2):
        directory = DataDirectory.open(path)
        assert directory.sessions.is_dir()
        assert directory.database == path / "era.db"
        assert path.stat().st_mode & 0o777 == 0o700
        directory.close()
        directory.close()
        path.chmod(0o755)


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places must be right whatever the working directory is later."""
    monkeypatch.chdir(tmp_path)
    directory = DataDirectory.open(Path("data"))
    assert directory.sessions == tmp_path / "data" / "sessions"
    directory.close()


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """While another process holds the lock, opening is refused with a sentence; then it works."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StartError, match="Another server uses"):
            DataDirectory.open(tmp_path)
        holder.kill()
    DataDirectory.open(tmp_path).close()


def test_a_second_opening_in_one_process_is_refused(tmp_path: Path) -> None:
    """The lock belongs to the opening, not to the process."""
    first = DataDirectory.open(tmp_path)
    with pytest.raises(StartError):
        DataDirectory.open(tmp_path)
    first.close()
    DataDirectory.open(tmp_path).close()


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A file in the way is a sentence, and no descriptor is left open."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere/else")
    before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(StartError, match="cannot be used"):
        DataDirectory.open(tmp_path / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_an_unwritable_parent_is_refused() -> None:
    """Where nothing can be made (/proc, also for root), the sentence says what to do."""
    with pytest.raises(StartError, match="--data-dir"):
        DataDirectory.open(Path("/proc/era"))


def state(path: Path) -> list[tuple[str, int]]:
    """The names and modes of a directory and of all in it."""
    return [(str(one), one.lstat().st_mode) for one in (path, *sorted(path.rglob("*")))]


@pytest.mark.parametrize("call", ["open", "flock", "lstat"])
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("has_lock", [True, False])
def test_a_lock_that_cannot_be_taken_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, is_stored: bool, has_lock: bool
) -> None:
    """Whatever the system refuses, what another server has stored there stays."""
    path = tmp_path / "data"
    path.mkdir(mode=0o755)
    if is_stored:
        for name in ("era.db", "era.db-wal", "secret", "ballast", "unlink.lock"):
            (path / name).write_bytes(b"SQLite format 3\0")
        for name in ("sessions", "d1", "r2/incoming", "incoming"):
            (path / name).mkdir(parents=True)
    if has_lock:
        (path / "lock").touch()
    before, real_open = state(tmp_path), os.open

    def refuse_flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def remove_lock(descriptor: int, operation: int) -> None:
        (path / "lock").unlink()  # as a start that has just failed does

    def refuse_open(name: str | Path, *more: object, **named: object) -> int:
        if str(name).endswith("lock"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real_open(name, *more, **named)  # type: ignore[arg-type]

    if call == "open":
        monkeypatch.setattr(os, "open", refuse_open)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse_flock if call == "flock" else remove_lock)
    with pytest.raises(StartError, match="Another server" if call == "lstat" else "cannot be used"):
        DataDirectory.open(path)
    if call == "lstat" and has_lock:
        (path / "lock").touch()
    assert state(tmp_path) == before


def test_a_new_directory_that_cannot_be_locked_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parents go as well."""

    def refuse_flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse_flock)
    with pytest.raises(StartError, match="cannot be used"):
        DataDirectory.open(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_address_of_the_server(tmp_path: Path) -> None:
    """Others read the address of the server that holds the lock, and no earlier one's."""
    with closing(DataDirectory.open(tmp_path)):
        assert server_url(tmp_path) is None
        note_server_url(tmp_path, "http://127.0.0.1:8787")
        assert server_url(tmp_path) == "http://127.0.0.1:8787"
    with closing(DataDirectory.open(tmp_path)):
        assert server_url(tmp_path) is None

"""Runtime directories: short enough for sockets, gone with all that code left in them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.safe_fs.trash import remove_directory
from era_kernels.sandbox.server import runtime_dirs
from tests.sandbox.sandboxes import short_directory
from tests.waiting import wait_until


def test_a_base_is_made_for_its_owner_only() -> None:
    """prepare makes what is missing, with mode 0700, and takes what is there."""
    with short_directory() as root:
        base = runtime_dirs.create_base(root / "run")
        assert base.stat().st_mode & 0o777 == 0o700
        assert runtime_dirs.create_base(base) == base


def test_a_base_that_is_too_long_is_refused() -> None:
    """A path that leaves no room for a socket is a StartError that says what to do."""
    with pytest.raises(StartError, match="choose a shorter one"):
        runtime_dirs.create_base(Path("/tmp") / ("x" * 90))


def test_a_base_that_cannot_be_made_is_refused() -> None:
    """The error has the system's reason."""
    with pytest.raises(StartError, match="Not a directory"):
        runtime_dirs.create_base(Path("/etc/passwd/x"))


def test_whatever_code_left_is_removed() -> None:
    """Unwritable directories and links do not keep a directory, and links are not followed."""
    with short_directory() as root:
        (root / "outside").mkdir(mode=0o500)
        (root / "outside" / "file").touch()
        target = root / "victim"
        deep = target / "a" / "b"
        deep.mkdir(parents=True)
        (deep / "file").touch()
        (deep / "link").symlink_to(root / "outside")
        (target / "broken").symlink_to("/does/not/exist")
        deep.chmod(0o000)
        (target / "a").chmod(0o000)
        remove_directory(target)
        assert not target.exists()
        assert (root / "outside" / "file").exists()
        assert (root / "outside").stat().st_mode & 0o777 == 0o500
        remove_directory(target)  # nothing there: nothing to do


def test_what_cannot_be_removed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A directory that cannot be removed is logged, and does not keep the server from closing."""
    remove_directory(Path("/proc/self/fd"))
    assert set(caplog.messages) == {"what was to be removed remains"}


def test_remove_at_any_depth(tmp_path: Path) -> None:
    """Directories may be nested deeper than a path may be long, or than Python goes."""
    target, previous = tmp_path / "target", os.open(".", os.O_RDONLY)
    target.mkdir()
    try:
        os.chdir(target)
        for _ in range(3000):
            Path("folder").mkdir()
            os.chdir("folder")
        Path("file").touch()
    finally:
        os.fchdir(previous)
        os.close(previous)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    remove_directory(target)
    assert not target.exists()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_remove_follows_nothing(tmp_path: Path) -> None:
    """A link that replaced the directory is not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "target").symlink_to(outside)
    remove_directory(tmp_path / "target")
    assert (outside / "kept").exists()


KILLED = """
import os, signal
from era_kernels.sandbox.server import runtime_dirs
with runtime_dirs.private_runtime_dir() as path:
    (path / "session").mkdir(mode=0)
    print(path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_server_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays of it, whatever is in it; the directories of living neighbours do."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "era-run-link"
    other.symlink_to("/etc")
    with runtime_dirs.private_runtime_dir() as neighbour:
        command = [sys.executable, "-c", KILLED]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        completed = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        left = Path(completed.stdout.strip())
        assert (left / "session").is_dir(), completed.stderr
        with runtime_dirs.private_runtime_dir() as own:
            assert set(tmp_path.iterdir()) == {other, neighbour, own}
        assert set(tmp_path.iterdir()) == {other, neighbour}
    assert set(tmp_path.iterdir()) == {other}


def test_what_takes_long_is_removed_beside_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start does not wait for what a killed server left, and it goes nevertheless."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(runtime_dirs, "PATIENCE", 0.0)
    left = tmp_path / f"{runtime_dirs.PREFIX}left"
    for number in range(500):
        (left / f"{number}" / "below").mkdir(parents=True)
    with runtime_dirs.private_runtime_dir():
        assert wait_until(lambda: not left.exists(), 60)

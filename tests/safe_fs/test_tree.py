"""Trees: removed whatever their shape, walked within bounds, never beyond a link."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.safe_fs import tree
from era_kernels.safe_fs.tree import closing_fd, remove_tree, walk
from tests.safe_fs.long_paths import make_many_below_long_path, traced_peak
from tests.safe_fs.shortage import no_descriptors
from tests.storage.stores import ROOT


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    with closing_fd(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
        yield descriptor


def _deep(path: Path, levels: int) -> None:
    """Makes directories that are nested deeper than the longest path."""
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 50, dir_fd=here)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def _all(path: Path) -> list[str]:
    with closing_fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as root:
        return sorted(found for found, _ in walk(root, lambda folder, name: False, 100_000))


def test_any_shape_is_removed(tmp_path: Path, parent: int) -> None:
    """Deep, wide, odd names, read-only, special files: all goes, what links point to stays."""
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    tree = tmp_path / "tree"
    _deep(tree, 3000)
    for n in range(40):
        (tree / f"{n}" / "a" / "b").mkdir(parents=True)
        for m in range(50):
            (tree / f"{n}" / "a" / f"{m}").write_text("x")
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xff\n")).mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "0" / "a" / "link").symlink_to(outside / "kept")
    (tree / "1").chmod(0)
    remove_tree(parent, "tree")
    assert sorted(os.listdir(tmp_path)) == ["outside"]  # noqa: PTH208
    assert (outside / "kept").is_dir()


def test_other_things_are_removed_too(tmp_path: Path, parent: int) -> None:
    """A link or file in the place of the directory goes, not what it points to; none is fine."""
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").write_text("x")
    for name in ("link", "file", "missing"):
        remove_tree(parent, name)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


REMOVE = """
import os, sys
from era_kernels.safe_fs.tree import remove_tree
parent = os.open(sys.argv[1], os.O_RDONLY)
os.setuid(65534)
remove_tree(parent, "tree")
"""


def test_owners_remove_what_they_may_not_write(tmp_path: Path) -> None:
    """For a server that is not root, modes that code set are no obstacle."""
    if os.geteuid() != 0:
        pytest.skip("needs root to act as another user")
    tree = tmp_path / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    for path in (tree / "a" / "b" / "c", tree / "a" / "b", tree / "a", tree, tmp_path):
        os.chown(path, 65534, 65534)
        path.chmod(0o755 if path == tmp_path else 0)
    subprocess.run([sys.executable, "-c", REMOVE, str(tmp_path)], check=True, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_told(
    tmp_path: Path, parent: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An obstacle is logged, the rest is removed, and the removal ends."""
    (tmp_path / "tree" / "a" / "mount").mkdir(parents=True)
    (tmp_path / "tree" / "b").mkdir()
    (tmp_path / "tree" / "b" / "file").write_text("x")
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "tree" / "a" / "mount")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs may be mounted here, so nothing is in the way")
    try:
        with caplog.at_level(logging.WARNING):
            remove_tree(parent, "tree")
        assert not (tmp_path / "tree" / "b").exists()
        assert "what was to be removed remains" in caplog.text
    finally:
        subprocess.run(["umount", mount[-1]], check=True)
    remove_tree(parent, "tree")
    assert list(tmp_path.iterdir()) == []


def test_a_walk_finds_regular_files_only(tmp_path: Path) -> None:
    """Links, FIFOs and what hides are left out, links to directories are not entered."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "top").write_text("x")
    (tmp_path / "a" / "around").symlink_to("..")
    (tmp_path / "link").symlink_to("top")
    os.mkfifo(tmp_path / "fifo")
    assert _all(tmp_path) == ["a/b/file", "top"]
    with closing_fd(os.open(tmp_path, os.O_RDONLY)) as root:
        seen = []
        found = walk(
            root, lambda folder, name: bool(seen.append((folder, name))) or name == "b", 99
        )
        assert [path for path, _ in found] == ["top"]
        assert seen == [("", "a"), ("a/", "b")]


def test_a_walk_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It ends after so many entries, and at directories whose path is too long to be opened."""
    for n in range(30):
        (tmp_path / str(n)).write_text("x")
    with closing_fd(os.open(tmp_path, os.O_RDONLY)) as root:
        assert len(list(walk(root, lambda folder, name: False, 30))) == 30
        assert "too large" not in caplog.text
        assert len(list(walk(root, lambda folder, name: False, 20))) == 20
        assert "too large" in caplog.text
    _deep(tmp_path / "deep", 200)
    assert len(_all(tmp_path)) == 30


def test_a_walk_keeps_no_long_paths(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of directories it is still to look into it keeps the names, within a bound of memory."""
    with closing_fd(os.open(tmp_path, os.O_RDONLY)) as root:
        make_many_below_long_path(root, 2000)
        assert traced_peak(lambda: list(walk(root, _none, 100_000))) < 4_000_000
        assert "too large" not in caplog.text
        monkeypatch.setattr(tree, "MAX_NAME_BYTES", 100_000)
        assert list(walk(root, _none, 100_000)) == []
        assert "too large" in caplog.text


def test_a_shortage_is_no_finding(tmp_path: Path, parent: int) -> None:
    """Without a descriptor nothing is called removed, or not there: the caller is told."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("x")
    with no_descriptors():
        for work in (lambda: remove_tree(parent, "tree"), lambda: list(walk(parent, _none, 9))):
            with pytest.raises(OSError) as caught:
                work()
            assert caught.value.errno == errno.EMFILE
    assert _all(tmp_path) == ["tree/a/b/file"]
    assert remove_tree(parent, "tree")
    assert _all(tmp_path) == []


def _none(folder: str, name: str) -> bool:
    return False

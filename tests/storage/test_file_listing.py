"""Listings of files: hidden names, and the change that one upload or deletion makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era_kernels.models import FilesChanged
from era_kernels.safe_fs.tree import closing_fd
from era_kernels.storage import file_listing
from era_kernels.storage.file_listing import (
    MAX_TOTAL_SIZE,
    FileChange,
    FileListing,
    TooManyEntries,
    is_hidden,
    scan,
)

OLD, NEW = (1, 10, 5), (2, 3, 6)  # inode, size, time


@pytest.mark.parametrize(
    "path",
    [".session_data.json", "node_modules/a", "a/node_modules/b/c", "__pycache__/x", ".cache/x",
     ".config/x/y", ".npm/x", "a/.ruff_cache/x"],
)  # fmt: skip
def test_hidden(path: str) -> None:
    """The data file, caches anywhere and tools' directories at home are hidden."""
    assert is_hidden(path)


@pytest.mark.parametrize(
    "path",
    ["a", ".env", "a/.session_data.json", "node_modules", "a/.config/x", ".cache",
     "a/b.node_modules/c", "NODE_MODULES/a"],
)  # fmt: skip
def test_not_hidden(path: str) -> None:
    """Files that are only called like that are shown."""
    assert not is_hidden(path)


@pytest.mark.parametrize(
    ("path", "before", "after", "files", "growth"),
    [
        ("f", None, NEW, 1, 3),
        ("f", OLD, NEW, 0, -7),
        ("f", OLD, None, -1, -10),
        ("f", None, None, 0, 0),
        ("node_modules/f", None, NEW, 0, 0),
    ],
)
def test_change(
    path: str, before: tuple[int, int, int], after: tuple[int, int, int], files: int, growth: int
) -> None:
    """How many files and bytes more there are; what is hidden does not count."""
    change = FileChange(path, before, after)
    assert (change.count_delta, change.size_delta) == (files, growth)


def test_with_change() -> None:
    """A listing after a change is what a walk would find; the one before stays as it was."""
    one = FileListing({"a": OLD}, 10)
    two = one.with_change(FileChange("b", None, NEW))
    assert (two.entries, two.total_size) == ({"a": OLD, "b": NEW}, 13)
    three = two.with_change(FileChange("a", OLD, NEW))
    assert (three.entries, three.total_size) == ({"a": NEW, "b": NEW}, 6)
    four = three.with_change(FileChange("a", NEW, None))
    assert (four.entries, four.total_size) == ({"b": NEW}, 3)
    assert four.with_change(FileChange("node_modules/x", None, OLD)) is four
    assert (one.entries, one.total_size) == ({"a": OLD}, 10)


def test_total_stays_in_bounds() -> None:
    """Holes of any size that code makes do not break the count."""
    full = FileListing({"a": OLD}, MAX_TOTAL_SIZE)
    assert full.with_change(FileChange("b", None, NEW)).total_size == MAX_TOTAL_SIZE
    assert FileListing({}, 3).with_change(FileChange("b", OLD, None)).total_size == 0


def test_change_is_no_modification() -> None:
    """A file that a caller put differs from none before, and what code does to it counts."""
    before = FileListing({"a": OLD}, 10).with_change(FileChange("b", None, NEW))
    assert FileListing({"a": OLD, "b": NEW}, 13).changes_since(before).count == 0
    assert FileListing({"a": OLD, "b": OLD}, 20).changes_since(before).count == 1
    assert FileListing({"a": OLD}, 10).changes_since(before).count == 1


def test_changed_paths() -> None:
    """Paths are told by what became of them, in the order of lists; of very many the first."""
    before = FileListing({"gone": OLD, "kept": OLD, "other": OLD})
    after = FileListing({"kept": OLD, "other": NEW, "new": NEW, "\udcff": NEW})
    found = after.changes_since(before)
    assert found == FilesChanged(4, ("new", "\ufffd"), ("other",), ("gone",))
    many = FileListing({f"{n:05}": NEW for n in range(5000)}).changes_since(
        FileListing({"00007": OLD})
    )
    assert many.count == 5000
    assert (len(many.created), many.changed, many.created[-1]) == (999, ("00007",), "00999")


def test_bounds_of_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very long paths so many are listed as may be in memory; a caller may bound the entries."""
    for number in range(20):
        (tmp_path / f"{number:0200}").touch()
    with closing_fd(os.open(tmp_path, os.O_RDONLY)) as workspace:
        assert scan(workspace, 20).count == 20
        with pytest.raises(TooManyEntries):
            scan(workspace, 19)
        monkeypatch.setattr(file_listing, "MAX_PATH_BYTES", 2000)
        assert 0 < scan(workspace).count < 10

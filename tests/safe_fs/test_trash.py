"""The trash: callers wait for a moment, and what they did not wait for goes as well."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from era_kernels.safe_fs import trash as trash_module
from era_kernels.safe_fs.trash import Trash, remove_directory
from tests.safe_fs.shortage import no_descriptors
from tests.waiting import wait_until

COUNT = 500


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with many others in it."""
    tree = tmp_path / "tree"
    for number in range(COUNT):
        (tree / f"{number}" / "below").mkdir(parents=True)
    return tree


def test_the_thread_goes_on(tree: Path) -> None:
    """Nobody waits, and in the end nothing is left."""
    trash = Trash()
    trash.remove(tree, 0.0)
    assert tree.exists()
    assert wait_until(lambda: not tree.exists(), 60)
    trash.close()


def test_what_is_small_is_gone_at_once(tmp_path: Path, tree: Path) -> None:
    """It does not wait for what others left."""
    small = tmp_path / "small"
    (small / "below").mkdir(parents=True)
    trash = Trash()
    trash.remove(tree, 0.0)
    trash.remove(small)
    assert not small.exists()
    trash.close()


def test_one_failure_is_not_the_last_removal(tree: Path) -> None:
    """What cannot be removed keeps nothing behind it."""

    def fail() -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    trash = Trash()
    trash.add(fail)
    trash.remove(tree, 0.0)
    assert wait_until(lambda: not tree.exists())
    trash.close()


def test_a_shortage_of_descriptors(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever deletes is not told of it, and the removal goes on when there are some again."""
    monkeypatch.setattr(trash_module, "REST", 0.05)
    trash = Trash()
    with no_descriptors():
        trash.remove(tree)
        time.sleep(0.2)  # the thread has tried it, too
    assert wait_until(lambda: not tree.exists())
    trash.close()


def test_a_shortage_of_threads(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever deletes is not told of it, and the next removal takes this one along."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    trash = Trash()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        trash.remove(tree, 0.0)
    assert tree.exists()
    trash.add(lambda: True)
    assert wait_until(lambda: not tree.exists())
    trash.close()


def test_close_does_not_wait(tree: Path) -> None:
    """What is left remains; a second call, and what comes later, do nothing."""
    trash = Trash()
    trash.close()
    trash.remove(tree, 0.0)
    trash.close()
    assert tree.exists()


def test_a_removal_goes_on_where_it_stopped(tree: Path) -> None:
    """Each call removes something, and tells whether it was all."""
    assert not remove_directory(tree, 0.0)
    for _ in range(100 * COUNT):
        if remove_directory(tree, 0.001):
            break
    assert not tree.exists()
    assert remove_directory(tree)


def test_directories_are_listed_a_few_times_only(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of what was emptied may cost as much as before: none follows each removal."""
    root, listings = tree.stat().st_ino, 0
    scandir = os.scandir

    def count(directory: int) -> Any:
        nonlocal listings
        listings += os.fstat(directory).st_ino == root
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", count)
    remove_directory(tree)
    assert not tree.exists()
    assert listings < 10

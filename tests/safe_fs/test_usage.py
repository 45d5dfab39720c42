"""The size of a tree, measured while its owner may be hostile."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from era_kernels.safe_fs.usage import (
    ENTRIES_PER_STEP,
    LARGE_BYTES,
    MIN_ENTRY_BYTES,
    running_totals,
)
from tests.sandbox.sandboxes import short_directory

MIB = 1024 * 1024


def total_size(root: Path) -> int:
    return list(running_totals(root))[-1]


def test_all_of_it(tmp_path: Path) -> None:
    """Files on all levels count, each with at least a block."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    for path in ("a/b/file", "c/file", "file"):
        (tmp_path / path).write_bytes(bytes(MIB))
    (tmp_path / "c" / "empty").touch()
    assert 3 * MIB + 4 * MIN_ENTRY_BYTES <= total_size(tmp_path) <= 3 * MIB + 16 * MIN_ENTRY_BYTES


def test_totals_rise_in_small_steps(tmp_path: Path) -> None:
    """A folder of many entries does not take one long step."""
    for number in range(5 * ENTRIES_PER_STEP):
        (tmp_path / str(number)).touch()
    totals = list(running_totals(tmp_path))
    assert len(totals) >= 5
    assert all(
        later - earlier <= ENTRIES_PER_STEP * MIN_ENTRY_BYTES for earlier, later in pairwise(totals)
    )


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither a link in the tree nor one that replaces a folder while it is measured."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(bytes(8 * MIB))
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    walk = running_totals(tree)
    next(walk)
    (tree / "folder").rmdir()
    (tree / "folder").symlink_to(outside)
    assert max(walk, default=0) < MIB


def test_a_folder_that_moves(tmp_path: Path) -> None:
    """A folder that is carried off while it is measured does not lead out of the tree."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(bytes(8 * MIB))
    tree = tmp_path / "tree"
    (tree / "folder" / "deeper" / "deepest").mkdir(parents=True)
    for number in range(ENTRIES_PER_STEP):
        (tree / "folder" / "deeper" / str(number)).touch()
    walk = running_totals(tree)
    for total in walk:
        if total > 4 * MIN_ENTRY_BYTES:  # it is in the deeper one
            break
    (tree / "folder" / "deeper").rename(outside / "deeper")
    assert max(walk) < MIB


def test_deeper_than_a_path_may_be_long(tmp_path: Path) -> None:
    """Nothing can be hidden by nesting."""
    home = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    try:
        for _ in range(3000):
            Path("folder").mkdir()
            os.chdir("folder")
        Path("large").write_bytes(bytes(MIB))
        assert total_size(tmp_path) >= MIB + 3000 * MIN_ENTRY_BYTES
    finally:
        os.fchdir(home)
        os.close(home)
        # Python goes no deeper than its stack allows, pytest's own removal included.
        subprocess.run(["rm", "-rf", tmp_path / "folder"], check=True)


def test_gone(tmp_path: Path) -> None:
    """A tree that is not there has no size."""
    assert list(running_totals(tmp_path / "nothing")) == []


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Neither by a whole walk nor by one that is given up."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    total_size(tmp_path)
    walk = running_totals(tmp_path)
    next(walk)
    walk.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("mode", [0, 0o300, 0o400])
def test_what_its_owner_hides(mode: int) -> None:
    """Where code has the uid of the server it cannot take from it the right to look."""
    with short_directory() as root:
        os.chown(root, *_somebody())
        folder = root / "a" / "b"
        if (pid := os.fork()) == 0:
            os._exit(_hidden(root, folder, mode))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def _somebody() -> tuple[int, int]:
    """Who is bound by modes."""
    return (65534, 65534) if os.geteuid() == 0 else (os.getuid(), os.getgid())


def _hidden(root: Path, folder: Path, mode: int) -> int:
    uid, gid = _somebody()
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    folder.mkdir(parents=True)
    (folder / "large").write_bytes(bytes(MIB))
    folder.chmod(mode)
    folder.parent.chmod(mode)
    root.chmod(mode)
    return 0 if total_size(root) > MIB else 1


def test_what_is_moved_ahead_of_the_walk(tmp_path: Path) -> None:
    """A large file that code moves to where the walk comes later counts once."""
    for number in range(20):
        (tmp_path / str(number)).mkdir()
    order = [tmp_path / name for name in reversed(os.listdir(tmp_path))]  # noqa: PTH208
    file = order[0] / "large"
    file.write_bytes(b"x" * LARGE_BYTES)
    total = 0
    for number, each in enumerate(running_totals(tmp_path)):
        total = each
        if number:  # the first total is that of the folders
            file = file.replace(order[min(number, len(order) - 1)] / "large")
    assert total <= 40 * MIN_ENTRY_BYTES + LARGE_BYTES

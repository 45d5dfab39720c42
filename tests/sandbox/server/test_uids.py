"""Uids of sessions, and files that change hands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from era_kernels.safe_fs.openat import open_directory
from era_kernels.sandbox.server import uids
from era_kernels.sandbox.server.uids import (
    PREFERRED_UIDS,
    UidAllocator,
    allow_traverse,
    available_uids,
    chown_tree,
    is_traversable,
)
from tests.sandbox.sandboxes import short_directory

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_each_its_own(tmp_path: Path) -> None:
    """No two have the same at once; what is free again may be taken again."""
    identities = UidAllocator(range(5, 8))
    taken = {identities.allocate(tmp_path) for _ in range(3)}
    assert taken == {5, 6, 7}
    identities.release(6)
    assert identities.allocate(tmp_path) == 6


@root_only
def test_owner_keeps_it(tmp_path: Path) -> None:
    """Who owns the directory already gets the same uid, unless another has it now."""
    identities = UidAllocator(PREFERRED_UIDS)
    chown_tree([tmp_path], PREFERRED_UIDS.start + 7)
    assert identities.allocate(tmp_path) == PREFERRED_UIDS.start + 7
    assert identities.allocate(tmp_path) != PREFERRED_UIDS.start + 7


@root_only
def test_chown_tree(tmp_path: Path) -> None:
    """Everything changes hands, and no link is followed."""
    outside = tmp_path / "outside"
    outside.write_text("x")
    inside = tmp_path / "inside"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "b" / "file").write_text("x")
    (inside / "link").symlink_to(outside)
    chown_tree([inside], PREFERRED_UIDS.start)
    owners = {path.lstat().st_uid for path in (inside, *inside.rglob("*"))}
    assert owners == {PREFERRED_UIDS.start}
    assert outside.stat().st_uid == 0


@root_only
def test_chown_tree_follows_no_link_that_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where code puts a link in the place of a directory on the way, nothing beyond it changes."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc" / "passwd").touch()
    (inside / "a" / "etc").mkdir(parents=True)

    def open_after_change(root: int, folder: str) -> int:
        if folder == "./a/etc":
            (inside / "a").rename(inside / "b")
            (inside / "a").symlink_to(outside)
        return open_directory(root, folder)

    monkeypatch.setattr(uids, "open_directory", open_after_change)
    chown_tree([inside], PREFERRED_UIDS.start)
    assert (inside / "a").is_symlink()
    assert (outside / "etc" / "passwd").stat().st_uid == os.getuid()


@root_only
def test_chown_tree_never_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of all files is refused before anything has another owner."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("something was about to get another owner")

    for name in ("chown", "fchown"):
        monkeypatch.setattr(os, name, refuse)
    for directory in ("/", "/usr/.."):
        with pytest.raises(OSError, match="Operation not permitted"):
            chown_tree([Path(directory)], PREFERRED_UIDS.start)


CHOWN_WITH_A_MOUNT = """
import sys
from pathlib import Path
from era_kernels.sandbox.server.uids import chown_tree
directory = Path(sys.argv[1])
chown_tree([directory], int(sys.argv[2]))
for path in (directory, directory / "mount", directory / "mount" / "file"):
    print(path.lstat().st_uid)
"""


@root_only
def test_chown_tree_stays_on_its_file_system(tmp_path: Path) -> None:
    """What is mounted in a directory keeps its owner."""
    (tmp_path / "mount").mkdir()
    mount = f"mount -t tmpfs none {tmp_path}/mount && touch {tmp_path}/mount/file"
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable),
            *("-c", CHOWN_WITH_A_MOUNT, tmp_path, str(PREFERRED_UIDS.start)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(PREFERRED_UIDS.start), "0", "0"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("0 0 4294967295\n", PREFERRED_UIDS),
        ("0 100000 65536\n", range(32769, 65536)),
    ],
)
def test_uids_of_host(tmp_path: Path, table: str, expected: range) -> None:
    """Where a container maps few uids, sessions get some of those."""
    file = tmp_path / "uid_map"
    file.write_text(table)
    assert available_uids(str(file)) == expected


@root_only
def test_allow_traverse() -> None:
    """A group may walk through what is ours, not list it; what is not ours is left alone."""
    with short_directory() as theirs:
        ours = theirs / "ours"
        target = ours / "a" / "b"
        target.mkdir(parents=True)
        for path in (ours, ours / "a", theirs):
            path.chmod(0o700)
        assert not is_traversable(target)
        with pytest.raises(PermissionError):
            allow_traverse(target, 4321, [ours])
        assert theirs.stat().st_mode & 0o777 == 0o700
        theirs.chmod(0o711)
        allow_traverse(target, 4321, [ours])
        for path in (ours, ours / "a"):
            assert (path.stat().st_mode & 0o777, path.stat().st_gid) == (0o710, 4321)

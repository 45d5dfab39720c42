"""Uids of sessions, and files that change hands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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

"""The server's secret is made once, is nobody else's to read, and stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.storage.secret import SECRET_BYTES, load_or_create_secret


def test_made_once(tmp_path: Path) -> None:
    """The second call finds what the first made; only the owner may read it."""
    path = tmp_path / "secret"
    secret = load_or_create_secret(path)
    assert len(secret) == SECRET_BYTES
    assert load_or_create_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_secret(tmp_path / "other") != secret
    assert sorted(one.name for one in tmp_path.iterdir()) == ["other", "secret"]


def test_a_torn_start(tmp_path: Path) -> None:
    """What a crash left half-written, which was nobody's secret yet, is replaced."""
    (tmp_path / "secret.new").write_bytes(b"half")
    secret = load_or_create_secret(tmp_path / "secret")
    assert load_or_create_secret(tmp_path / "secret") == secret
    assert len(secret) == SECRET_BYTES


@pytest.mark.parametrize("left", [b"", b"half", bytes(SECRET_BYTES + 1)], ids=len)
def test_damaged(tmp_path: Path, left: bytes) -> None:
    """A file that holds no secret is told, and stays: what callers rely on is not given up."""
    path = tmp_path / "secret"
    path.write_bytes(left)
    with pytest.raises(StartError, match=r"is damaged: .*from a backup"):
        load_or_create_secret(path)
    assert path.read_bytes() == left
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]


def test_no_file(tmp_path: Path) -> None:
    """What is no file is refused at once, though it would never end or never answer."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "directory").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(StartError, match=r"regular file|directory|device"):
            load_or_create_secret(path)


def test_cannot_be_made(tmp_path: Path) -> None:
    """A server that could not keep its promises does not start."""
    with pytest.raises(StartError, match="secret"):
        load_or_create_secret(tmp_path / "missing" / "secret")

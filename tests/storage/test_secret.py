"""The server's secret is made once, is nobody else's to read, and stays."""

from __future__ import annotations

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


@pytest.mark.parametrize("left", ["secret", "secret.new"])
def test_torn(tmp_path: Path, left: str) -> None:
    """What a crash or another hand left half-written is replaced."""
    (tmp_path / left).write_bytes(b"half")
    secret = load_or_create_secret(tmp_path / "secret")
    assert load_or_create_secret(tmp_path / "secret") == secret
    assert len(secret) == SECRET_BYTES


def test_cannot_be_made(tmp_path: Path) -> None:
    """A server that could not keep its promises does not start."""
    with pytest.raises(StartError, match="secret"):
        load_or_create_secret(tmp_path / "missing" / "secret")

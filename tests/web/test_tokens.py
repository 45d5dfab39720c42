"""Tokens: from settings and from a file that may change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.web import tokens as tokens_module
from era_kernels.web.tokens import ApiTokens

ONE, TWO, THREE = "one-0123456789abcdef", "two-0123456789abcdef", "tré-0123456789abcdef"


async def refresh(tokens: ApiTokens) -> None:
    """What the server does before it checks a request."""
    due = tokens.refresh_if_due()

    if due is not None:
        await due


@pytest.fixture
def no_check_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "CHECK_INTERVAL", 0.0)


def test_accept() -> None:
    """A token is accepted whole or not at all."""
    tokens = ApiTokens([ONE, THREE])
    assert tokens.contains_any([ONE])
    assert tokens.contains_any(["wrong", THREE])
    for wrong in ([], [""], [ONE[:-1]], [ONE + "x"], [ONE.upper()], [TWO]):
        assert not tokens.contains_any(wrong)


def test_none() -> None:
    """No tokens are no tokens."""
    assert not ApiTokens()
    assert not ApiTokens([" ", ""])
    assert not ApiTokens().contains_any([""])


def test_short() -> None:
    """A token that can be guessed is refused at start."""
    with pytest.raises(StartError, match="16 characters") as caught:
        ApiTokens(["guess me"])
    assert "guess" not in str(caught.value)


async def test_file(tmp_path: Path, no_check_interval: None) -> None:
    """A token file is read again when it changes; what is gone from it is refused."""
    file = tmp_path / "tokens"
    file.write_text(f"# people\n{ONE}  # ann\n\n")
    tokens = ApiTokens([TWO], file)
    assert tokens.contains_any([ONE])
    assert tokens.contains_any([TWO])
    file.write_text(f"{THREE}\n")
    await refresh(tokens)
    assert tokens.contains_any([THREE])
    assert tokens.contains_any([TWO])
    assert not tokens.contains_any([ONE])


async def test_file_emptied(tmp_path: Path, no_check_interval: None) -> None:
    """A server that began with tokens never opens: an empty file lets nobody in."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = ApiTokens((), file)
    file.write_text("")
    await refresh(tokens)
    assert tokens
    assert not tokens.contains_any([ONE])
    assert not tokens.contains_any([""])


async def test_removed_file(
    tmp_path: Path, no_check_interval: None, caplog: pytest.LogCaptureFixture
) -> None:
    """While the file cannot be read the tokens stay, and the log says so once."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = ApiTokens((), file)
    file.unlink()
    with caplog.at_level(logging.WARNING):
        await refresh(tokens)
        await refresh(tokens)
    assert tokens.contains_any([ONE])
    assert len(caplog.records) == 1


async def test_file_with_a_short_token(
    tmp_path: Path, no_check_interval: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A short token that is written later is ignored, and not logged."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = ApiTokens((), file)
    file.write_text(f"hush\n{TWO}\n")
    with caplog.at_level(logging.WARNING):
        await refresh(tokens)
    assert tokens.contains_any([TWO])
    assert not tokens.contains_any(["hush"])
    assert "hush" not in caplog.text


def test_not_looked_at_all_the_time(tmp_path: Path) -> None:
    """The file is looked at once in a while, not at each request."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    assert ApiTokens((), file).refresh_if_due() is None


@pytest.mark.parametrize("content", [None, b"", b"# nobody\n", b"short\n", b"\xff\xfe"])
def test_bad_file_at_start(tmp_path: Path, content: bytes | None) -> None:
    """A token file that holds no token stops the start, with a sentence."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError, match="tokens"):
        ApiTokens((), file)

"""Tokens: from settings and from a file that may change."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
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
    assert tokens.find_name([ONE]) == ""
    assert tokens.find_name(["wrong", THREE]) == ""
    for wrong in ([], [""], [ONE[:-1]], [ONE + "x"], [ONE.upper()], [TWO]):
        assert tokens.find_name(wrong) is None


def test_none() -> None:
    """No tokens are no tokens."""
    assert not ApiTokens()
    assert not ApiTokens([" ", ""])
    assert ApiTokens().find_name([""]) is None


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
    assert tokens.find_name([ONE]) == tokens.find_name([TWO]) == ""
    file.write_text(f"{THREE}\n")
    await refresh(tokens)
    assert tokens.find_name([THREE]) == tokens.find_name([TWO]) == ""
    assert tokens.find_name([ONE]) is None


async def test_names(tmp_path: Path, no_check_interval: None) -> None:
    """A line may name its token; the name is none."""
    file = tmp_path / "tokens"
    file.write_text(f"ann.b@c-d_e: {ONE} # Ann\r\n\t{TWO}\r\n")
    tokens = ApiTokens([THREE], file)
    assert tokens.find_name([ONE]) == "ann.b@c-d_e"
    assert tokens.find_name([TWO]) == tokens.find_name([THREE]) == ""
    assert tokens.find_name([f"ann.b@c-d_e:{ONE}"]) is None
    file.write_text(f"ben:{ONE}\n")
    await refresh(tokens)
    assert tokens.find_name([ONE]) == "ben"


MISTAKES = [
    ("\nhush\n", "line 2"),
    (f"{ONE}\n\nann:hush\n", "line 3"),
    (f"ann:{ONE}\nben:{TWO}\nann:{THREE}\n", "line 3 has the same name as line 1"),
    (f"ann:{ONE}\nben:{ONE}\n", "line 2"),
    (f"ann b:{ONE}\n", "line 1"),
    (f":{ONE}\n", "line 1"),
    (f"{'n' * 65}:{ONE}\n", "line 1"),
    (f"hush:ann:{ONE}\n", "line 1"),
    (f"{ONE}\n" * 60_000, "larger"),
]


@pytest.mark.parametrize(("content", "said"), MISTAKES, ids=range(len(MISTAKES)))
async def test_mistakes(
    tmp_path: Path,
    no_check_interval: None,
    caplog: pytest.LogCaptureFixture,
    content: str,
    said: str,
) -> None:
    """A file with a mistake is refused whole: at start, and later with the old tokens in force.

    The line is named, and nothing of it is repeated; the log tells it once.
    """
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(StartError, match=said) as caught:
        ApiTokens((), file)
    four = "four-0123456789abcdef"
    file.write_text(f"{four}\n")
    tokens = ApiTokens((), file)
    file.write_text(content)
    with caplog.at_level(logging.INFO):
        await refresh(tokens)
        await refresh(tokens)
    [record] = caplog.records
    assert said in vars(record)["reason"]
    assert tokens.find_name([four]) == ""
    assert tokens.find_name([ONE, TWO, "hush"]) is None
    for secret in (ONE, TWO, "hush"):
        assert secret not in str(caught.value) + caplog.text + vars(record)["reason"]


@pytest.mark.parametrize("content", ["", "\n \t\r\n"])
async def test_blank_file(tmp_path: Path, no_check_interval: None, content: str) -> None:
    """A file that was only emptied, perhaps to be written, leaves the tokens in force."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = ApiTokens((), file)
    file.write_text(content)
    await refresh(tokens)
    assert tokens.find_name([ONE]) == ""
    assert tokens.find_name([""]) is None


async def test_file_for_nobody(tmp_path: Path, no_check_interval: None) -> None:
    """A file with comments alone is meant for nobody; the server never opens by it."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = ApiTokens((), file)
    file.write_text("# nobody\n")
    await refresh(tokens)
    assert tokens
    assert tokens.find_name([ONE]) is None
    assert tokens.find_name([""]) is None


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
    assert tokens.find_name([ONE]) == ""
    assert len(caplog.records) == 1
    file.write_text(f"{TWO}\n")
    await refresh(tokens)
    assert tokens.find_name([ONE]) is None
    assert tokens.find_name([TWO]) == ""


def test_not_looked_at_all_the_time(tmp_path: Path) -> None:
    """The file is looked at once in a while, not at each request."""
    file = tmp_path / "tokens"
    file.write_text(ONE)
    assert ApiTokens((), file).refresh_if_due() is None


# ---------------------------------------------------------------- rewriting

SETS = [[f"set-{number}-{one}-0123456789" for one in range(50)] for number in range(2)]


def in_place(file: Path, content: str) -> None:
    """Overwrites bytes, and never shortens the file."""
    with file.open("r+") as opened:
        opened.write(content)


def replaced(file: Path, content: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(content)
    new.rename(file)


def truncated_first(file: Path, content: str) -> None:
    """Empties the file, and writes it in pieces that are no lines."""
    with file.open("w") as opened:
        time.sleep(0.1)
        for start in range(0, len(content), 300):
            opened.write(content[start : start + 300])
            opened.flush()
            time.sleep(0.02)


def with_old_times(file: Path, content: str) -> None:
    """Writes as many bytes as before and sets the times of before, as some tools do."""
    before = file.stat()
    file.write_text(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("way", [in_place, replaced, truncated_first, with_old_times])
async def test_rewritten(
    tmp_path: Path, no_check_interval: None, way: Callable[[Path, str], None]
) -> None:
    """However a file is rewritten, every request sees the old set or the new one, never a mix.

    As soon as it stands, all see the new one.
    """
    file = tmp_path / "tokens"
    file.write_text("\n".join(SETS[0]) + "\n")
    tokens = ApiTokens((), file)
    for new, old in (SETS[::-1], SETS):
        writer = threading.Thread(target=way, args=(file, "\n".join(new) + "\n"))
        writer.start()
        while writer.is_alive():
            await refresh(tokens)
            known = [[tokens.find_name([one]) is not None for one in part] for part in (old, new)]
            assert [all(part) for part in known] == [not any(part) for part in known[::-1]]
        end = time.monotonic() + 2
        while tokens.find_name([new[0]]) is None and time.monotonic() < end:
            await refresh(tokens)
        assert all(tokens.find_name([one]) == "" for one in new)
        assert not any(tokens.find_name([one]) == "" for one in old)


async def test_all_wait_for_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many requests at once after a change, none is answered by what was before."""
    file = tmp_path / "tokens"
    file.write_text(f"{ONE}\n")
    tokens = ApiTokens((), file)
    monkeypatch.setattr(tokens_module, "CHECK_INTERVAL", 0.0)
    file.write_text(f"{TWO}\n")

    async def ask() -> str | None:
        await refresh(tokens)
        return tokens.find_name([TWO])

    assert await asyncio.gather(*(ask() for _ in range(15))) == [""] * 15


async def test_file_that_keeps_changing(tmp_path: Path, no_check_interval: None) -> None:
    """Requests wait only a moment for a file that never comes to rest."""
    file = tmp_path / "tokens"
    file.write_text(f"{ONE}\n")
    tokens = ApiTokens((), file)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.wait(0.01):
            file.write_text(f"{TWO}\n")

    file.write_text(f"{TWO}\n")
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        started_at = time.monotonic()
        await refresh(tokens)
        assert time.monotonic() - started_at < 5
        assert tokens.find_name([ONE]) == ""
    finally:
        stop.set()
        writer.join()
    end = time.monotonic() + 10
    while tokens.find_name([TWO]) is None and time.monotonic() < end:
        await refresh(tokens)
    assert tokens.find_name([TWO]) == ""


@pytest.mark.parametrize("content", [None, b"", b"# nobody\n", b"short\n", b"\xff\xfe"])
def test_bad_file_at_start(tmp_path: Path, content: bytes | None) -> None:
    """A token file that holds no token stops the start, with a sentence."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError, match="tokens"):
        ApiTokens((), file)

"""Crash output is what a dying process wrote, without the kernel's own frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.kernels.crash_output import MAX_LENGTH, crash_stderr

FOLDER = Path("/k/spec")
HEAD = "Fatal error\n\nStack (most recent call first):\n"
USER = '  File "<cell 1>", line 2 in f\n  File "/lib/x", line 3 in g\n'
OWN = '  File "/k/spec/launcher", line 4 in run\n'
BELOW = '  File "/lib/loop", line 5 in run\n  File "<string>", line 1 in <module>\n'
FOOT = "\nExtension modules: a, b (total: 2)\n"

TEXTS = {
    "plain": ("free(): invalid pointer\n", "free(): invalid pointer\n"),
    "stack": (HEAD + USER + OWN + BELOW + OWN + FOOT, HEAD + USER + FOOT),
    "own frames on top": (HEAD + OWN + USER + OWN + BELOW + FOOT, HEAD + USER + FOOT),
    "only own frames": (HEAD + OWN + OWN + FOOT, HEAD + FOOT),
    "two stacks": (HEAD + OWN + "\n" + HEAD + USER + OWN + BELOW, HEAD + "\n" + HEAD + USER),
    "names it alone": ("cannot open /k/spec/file\n", "cannot open /k/spec/file\n"),
    "folder of a like name": (HEAD + '  File "/k/special/x"\n', HEAD + '  File "/k/special/x"\n'),
    "no newline": ("abc", "abc"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_frames(name: str) -> None:
    """The program's frames stay; those of the launcher, and what is below them, do not."""
    text, expected = TEXTS[name]
    assert crash_stderr(text.encode(), len(text), FOLDER) == expected


def test_only_what_is_new() -> None:
    """Output that was reported before is not repeated."""
    assert crash_stderr(b"old\nnew\n", 4, FOLDER) == "new\n"
    assert crash_stderr(b"old\n", 0, FOLDER) == ""
    assert crash_stderr(b"", 0, FOLDER) == ""


def test_bounded() -> None:
    """Only the end of long output is kept; bytes that are no text do no harm."""
    data = b"\xff" * 60_000 + b"end"
    assert crash_stderr(data, 10**6, FOLDER) == "\ufffd" * (MAX_LENGTH - 3) + "end"

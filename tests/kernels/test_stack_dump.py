"""Stacks that a signal handler wrote, read from a file that anything may be in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era_kernels.kernels import stack_dump
from era_kernels.kernels.inspection_replies import MAX_FRAMES
from era_kernels.models import StackFrame

DUMP = """Stack (most recent call first):
  File "/lib/re.py", line 9 in match
  File "<cell 2>", line 2 in g
  File "/launcher/loops.py", line 7 in call
  File "<cell 2>", line 3 in <module>
  File "/launcher/program.py", line 5 in run
  File "/launcher/kernel.py", line 1 in main
"""
SOURCES = {"<cell 2>": ["def g():", "    match()", "g()"]}


def test_frames() -> None:
    """Innermost last, without the kernel's own frames, with the lines of the cell."""
    assert stack_dump.parse_dump(DUMP, SOURCES) == [
        StackFrame("<cell 2>", 3, "<module>", "g()"),
        StackFrame("<cell 2>", 2, "g", "match()"),
        StackFrame("/lib/re.py", 9, "match", ""),
    ]


def test_last_stack_counts() -> None:
    """Earlier stacks in the file are of no interest."""
    earlier = DUMP.replace("line 2 in g", "line 1 in g")
    assert stack_dump.parse_dump(earlier + DUMP, SOURCES) == stack_dump.parse_dump(DUMP, SOURCES)


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "Stack (most recent call first):\n", DUMP.replace("<cell 2>", "cell"),
     "Stack (most recent call first):\n  File \"<cell 2>\", line x in g\n"],
)  # fmt: skip
def test_no_cell_is_no_frame(text: str) -> None:
    """A text without a cell has no frames."""
    assert stack_dump.parse_dump(text, SOURCES) == []


def test_line_that_is_not_there() -> None:
    """A line past the end of the source has no text."""
    text = 'X (most recent call first):\n  File "<cell 2>", line 999999999 in g\n'
    assert stack_dump.parse_dump(text, SOURCES) == [StackFrame("<cell 2>", 999999999, "g", "")]


async def ask_and_read(file: Path, *pieces: str) -> str | None:
    async def ask() -> None:
        for piece in pieces:
            with file.open("a") as sink:
                sink.write(piece)

    return await stack_dump.request_dump(file, ask, 0.2)


async def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A dump after the request is read, also where something was in the file before."""
    file = tmp_path / "dump"
    assert await ask_and_read(file, "a", "b") == "ab"
    assert await ask_and_read(file, "c") == "abc"
    assert await ask_and_read(file) is None


async def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    """A program that fills the file costs no memory."""
    file = tmp_path / "dump"
    with file.open("w") as sink:
        sink.truncate(1 << 40)
    found = await ask_and_read(file, "end")
    assert found is not None
    assert len(found) == stack_dump.MAX_READ_BYTES
    assert found.endswith("end")


async def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """Links, pipes and folders are left alone; they neither hang the server nor stay open."""
    target = tmp_path / "secret"
    target.write_text("secret")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    async def ask() -> None:
        """Nothing is written."""

    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("link", "pipe", "folder", "absent"):
        assert await stack_dump.request_dump(tmp_path / name, ask, 0.1) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_frames_without_an_end() -> None:
    """Of a forged stack the innermost frames are returned, as many as of any other."""
    lines = "".join(f'  File "<cell 2>", line 1 in f{n}\n' for n in range(5000))
    found = stack_dump.parse_dump("Stack (most recent call first):\n" + lines, SOURCES)
    assert [frame.function for frame in found] == [f"f{n}" for n in reversed(range(MAX_FRAMES))]

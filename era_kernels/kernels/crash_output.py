"""Extracts what a crashed kernel wrote to its own stderr, as the caller may see it."""

from __future__ import annotations

from pathlib import Path

MAX_LENGTH = 8192  # characters of the text


def crash_stderr(tail: bytes, new_bytes: int, kernelspec_directory: Path) -> str:
    """Returns the last `new_bytes` of a process's own stderr as text.

    Of a long text only the last MAX_LENGTH characters are returned.

    Of a stack, innermost frame first, the kernel's own frames are left out: those that name a file
    of its folder, and from the first of them that is below the program's own frames all the rest.

    >>> text = b"Fatal\\n  File <cell 1>\\n  File /k/main.x\\n  File /lib/loop.x\\n\\nThe end\\n"
    >>> crash_stderr(text, len(text), Path("/k"))
    'Fatal\\n  File <cell 1>\\n\\nThe end\\n'
    >>> crash_stderr(text, 8, Path("/k"))
    'The end\\n'
    """
    text = tail[-new_bytes:].decode(errors="replace") if new_bytes else ""
    kept: list[str] = []
    has_program_frame = False  # a frame of the program's own was kept
    is_below_program = False  # the rest of the stack is left out
    for line in text.splitlines(keepends=True):
        if not line[:1].isspace() or not line.strip():
            has_program_frame = is_below_program = False
        elif is_below_program or f"{kernelspec_directory}/" in line:
            is_below_program = is_below_program or has_program_frame
            continue
        else:
            has_program_frame = True
        kept.append(line)
    return "".join(kept)[-MAX_LENGTH:]

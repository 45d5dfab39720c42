"""Last words: what a process wrote past any protocol before it died, as its caller may see it."""

from __future__ import annotations

from pathlib import Path

MAX_LENGTH = 8192  # characters that are told


def crash_stderr(tail: bytes, new_bytes: int, kernelspec_directory: Path) -> str:
    """The last `new_bytes` of a process's own stderr as text, of much only the last of it.

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
    has_program_frame = is_below_program = (
        False  # a frame of the program's own was kept; what is left of the stack is not
    )
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

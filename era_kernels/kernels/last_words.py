"""Last words: what a process wrote past any protocol before it died, as its caller may see it."""

from __future__ import annotations

from pathlib import Path

MOST = 8192  # characters that are told


def last_words(tail: bytes, new: int, folder: Path) -> str:
    """The last `new` bytes of a process's own stderr as text, of much only the last of it.

    Of a stack, innermost frame first, the kernel's own frames are left out: those that name a file
    of its folder, and from the first of them that is below the program's own frames all the rest.

    >>> text = b"Fatal\\n  File <cell 1>\\n  File /k/main.x\\n  File /lib/loop.x\\n\\nThe end\\n"
    >>> last_words(text, len(text), Path("/k"))
    'Fatal\\n  File <cell 1>\\n\\nThe end\\n'
    >>> last_words(text, 8, Path("/k"))
    'The end\\n'
    """
    text = tail[-new:].decode(errors="replace") if new else ""
    kept: list[str] = []
    frames = rest = False  # a frame of the program's own was kept; what is left of the stack is not
    for line in text.splitlines(keepends=True):
        if not line[:1].isspace() or not line.strip():
            frames = rest = False
        elif rest or f"{folder}/" in line:
            rest = rest or frames
            continue
        else:
            frames = True
        kept.append(line)
    return "".join(kept)[-MOST:]

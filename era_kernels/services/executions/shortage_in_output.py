"""Recognizes in a program's last words that it came up against a limit of its session; pure.

The words are those of interpreters, runtimes and libraries of many languages. Linux tells a program
that gets no memory no more than that, and the program tells it in its own way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from era_kernels.models import SERVER_PREFIX, ExecutionEnd

WORDS_LENGTH = 4096  # characters at the end of stderr that are looked at


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a program did not get, in words, and the limits of which one may be the reason.

    `limits` are names of fields of `Limits`.
    """

    what: str
    limits: tuple[str, ...]


MEMORY = Shortage("out of memory", ("memory",))
THREADS = Shortage("no more threads or processes could be started", ("memory", "processes"))
OPEN_FILES = Shortage("no more files could be opened", ("open_files",))
FILE_SIZE = Shortage("a file became too large", ("file_size",))

_CANNOT = r"\b(?i:can't|can ?not|could not|unable to|failed to)"
_ALLOCATE = r" (?:allocate|reserve|map|grow|extend|get|commit)\b"
_START = r" (?:start|create|spawn)(?: an?| any)?(?: new| more| native| os| OS| system| worker){0,3}"
_FORK_CALL = r"fork\w{0,20}\([^\n]{0,200}"

_WORDS: dict[Shortage, tuple[str, ...]] = {
    MEMORY: (
        # The names of errors, in a report of an error or in the text of another one.
        r"\b[\w.]{0,80}(?:MemoryError|OutOfMemory(?:Error|Exception)?|OUT_OF_MEMORY)\b",
        r"\bstd::bad_(?:alloc|array_new_length)\b|\bENOMEM\b",
        # Systems, libraries and runtimes.
        r"\bmemory allocation of \d+ bytes failed",
        _CANNOT + _ALLOCATE + r"[^\n]{0,40}\b(?:memory|bytes|heap|buffer)\b",
        r"\b(?i:(?:memory|buffer) allocation|[mc]alloc|realloc|mmap)\b[^\n]{0,20} fail",
        r"\b(?i:memory|heap) exhausted\b",
        r"\b(?i:out of|not enough|insufficient|no more) (?:\w{1,10} )?(?i:memory)\b",
    ),
    # Their stacks take memory, too.
    THREADS: (
        r"\b(?:pthread_create|v?fork|thread)\b[^\n]{0,60}\bResource temporarily unavailable",
        r"\b(?:pthread_create|v?fork|clone)\b[^\n]{0,60}\bCannot allocate",
        r"\bpthread_create\b[^\n]{0,20} failed\b",
        r"\bwhat\(\): {1,4}Resource temporarily unavailable",
        _CANNOT + _START + r" thread",
        _CANNOT + r" v?fork\b",
        # The call stands some lines above an error that has no words of its own.
        _FORK_CALL + r"(?:\n[^\n]{0,200}){0,9}?\nBlockingIOError: \[Errno 11\]",
    ),
    OPEN_FILES: (r"\bToo many open files\b|\bEMFILE\b",),
    FILE_SIZE: (r"\bFile too large\b|\bEFBIG\b|\bFile size limit exceeded\b",),
}
_ERROR_AT_END = re.compile(r"(?:^|\n)[\w.]{0,80}MemoryError(?::[^\n]*)?\n?\Z")
_PATTERNS = tuple(
    (re.compile(words), shortage) for shortage, table in _WORDS.items() for words in table
)


def find_shortage(end: ExecutionEnd, last_stderr: str) -> Shortage | None:
    """Returns what a program came up against that ended so, with that end of its stderr.

    A program that ended well may have got over it, or printed such words for another reason: then
    only the name of an error at the beginning of its very last line counts, as a child leaves it.
    """
    if end.exception is not None:
        shortage = _in_text(f"{end.exception.name}: {end.exception.value}"[-WORDS_LENGTH:])
        if shortage is not None:
            return shortage
    text = last_stderr[-WORDS_LENGTH:]
    if end.exit_code == 0 and end.state == "preserved":
        return MEMORY if _ERROR_AT_END.search(text) else None
    return _in_text(text)


def _in_text(text: str) -> Shortage | None:
    """Returns the shortage that the text tells last, apart from lines like the server's own."""
    text = "\n".join(line for line in text.split("\n") if not line.startswith(SERVER_PREFIX))
    found: tuple[int, Shortage | None] = (-1, None)
    for pattern, shortage in _PATTERNS:
        for match in pattern.finditer(text):
            if match.end() > found[0]:
                found = (match.end(), shortage)
    return found[1]

"""Last words of programs of many kinds, and what they tell of a limit."""

from __future__ import annotations

import pytest

from era_kernels.models import ExceptionInfo, ExecutionEnd
from era_kernels.services.executions.shortage_in_output import (
    FILE_SIZE,
    MEMORY,
    OPEN_FILES,
    THREADS,
    WORDS_LENGTH,
    Shortage,
    find_shortage,
)

FAILED = ExecutionEnd(1)


@pytest.mark.parametrize(
    ("words", "shortage"),
    [
        ("MemoryError", MEMORY),
        ("MemoryError: no room", MEMORY),
        ("a.b._ArrayMemoryError: Unable to allocate 7.45 GiB for an array", MEMORY),
        ("OSError: [Errno 12] Cannot allocate memory", MEMORY),
        ("sort: memory exhausted", MEMORY),
        ("sort: cannot create temporary file: No such file", None),
        ("memory allocation of 800000000 bytes failed", MEMORY),
        ("terminate called after throwing an instance of 'std::bad_alloc'", MEMORY),
        ("FATAL ERROR: Reached heap limit Allocation failed - heap out of memory", MEMORY),
        ("fatal error: runtime: out of memory", MEMORY),
        ("runtime: cannot allocate memory", MEMORY),
        ("fatal error: runtime: cannot allocate memory", MEMORY),
        ("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", MEMORY),
        ("Exception: java.lang.OutOfMemoryError: heap space", MEMORY),
        ("NoMemoryError: failed to allocate memory", MEMORY),
        ("virtual memory exhausted: Cannot allocate memory", MEMORY),
        ("xmalloc: cannot allocate 100 bytes", MEMORY),
        ("RangeError: Array buffer allocation failed", MEMORY),
        ("Error: spawn ENOMEM", MEMORY),
        ("ERR_WORKER_OUT_OF_MEMORY", MEMORY),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", MEMORY),
        ("lib.ArrowMemoryError: malloc of size 800 failed", MEMORY),
        ("fatal: Out of memory, malloc failed (tried to allocate 100 bytes)", MEMORY),
        ("OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: Resource", THREADS),
        ("RuntimeError: can't start new thread", THREADS),
        ("runtime: failed to create new OS thread (have 2 already; errno=11)", THREADS),
        ("failed to spawn thread: Os { code: 11, kind: WouldBlock }", THREADS),
        ("  what():  Resource temporarily unavailable", THREADS),
        ("sh: 0: Cannot fork", THREADS),
        ("bash: fork: retry: Resource temporarily unavailable", THREADS),
        ("  pid = os.fork()\n        ^^^^\nBlockingIOError: [Errno 11] Resource", THREADS),
        ("  self.pid = _fork_exec(\n      ^^\nBlockingIOError: [Errno 11] Resource", THREADS),
        ("OSError: [Errno 24] Too many open files: 'x'", OPEN_FILES),
        ("Error: EMFILE: too many", OPEN_FILES),
        ("OSError: [Errno 27] File too large", FILE_SIZE),
        # What programs say for other reasons.
        ("BlockingIOError: [Errno 11] Resource temporarily unavailable", None),
        ("ValueError: the value is too large", None),
        ("KeyError: 'memory'", None),
        ("git clone failed", None),
        ("IP address allocation failed", None),
        ("OSError: [Errno 28] No space left on device", None),
        ("MemoryErrors are a kind of error", None),
        ("", None),
    ],
)
def test_words(words: str, shortage: Shortage | None) -> None:
    """In the last words of a program that failed each is found."""
    assert find_shortage(FAILED, f"before\n{words}\n") == shortage


def test_exception_counts_first() -> None:
    """The error that ended the program tells more than what was printed."""
    end = ExecutionEnd(1, ExceptionInfo("MemoryError", "", []))
    assert find_shortage(end, "Too many open files\n") == MEMORY
    assert find_shortage(ExecutionEnd(1, ExceptionInfo("E", "x", [])), "MemoryError\n") == MEMORY


def test_last_words_count() -> None:
    """Of several the last counts, and nothing that is far from the end."""
    assert find_shortage(FAILED, "MemoryError\nToo many open files\n") == OPEN_FILES
    assert find_shortage(FAILED, "MemoryError\n" + "x" * WORDS_LENGTH) is None


def test_program_that_ended_well() -> None:
    """It may have got over it: only its very last line counts."""
    well = ExecutionEnd(0)
    assert find_shortage(well, "MemoryError\nwent on\n") is None
    assert find_shortage(well, "Traceback …\nMemoryError\n") == MEMORY
    assert find_shortage(well, "Traceback …\na.b.MemoryError: no room") == MEMORY
    assert find_shortage(well, "went on after a MemoryError\n") is None
    assert find_shortage(well, "not enough memory for a cache: using the disk\n") is None
    assert find_shortage(ExecutionEnd(0, state="lost"), "MemoryError\nabort\n") == MEMORY


def test_line_like_the_servers() -> None:
    """What looks like the server's own line is no program's last word."""
    assert find_shortage(FAILED, "x\n[era] out of memory\n") is None
    assert find_shortage(FAILED, "MemoryError\n[era] Too many open files\n") == MEMORY

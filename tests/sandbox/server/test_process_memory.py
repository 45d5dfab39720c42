"""What a process's memory is where no control group counts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from era_kernels.sandbox.server import files_in_memory, process_memory
from era_kernels.sandbox.server.files_in_memory import FilesInMemory
from era_kernels.sandbox.server.process_memory import (
    bytes_beside_pages,
    exceeds,
    proportional_bytes,
)
from era_kernels.sandbox.server.process_tree import ProcStat, read_stat

MIB = 1024**2
ORDINARY_USER = 12345


@contextmanager
def holding(code: str) -> Iterator[ProcStat]:
    """A process that runs the code and waits."""
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = read_stat(process.pid)
        assert stat is not None
        yield stat
        process.communicate(b"\n")


def as_ordinary_user(check: Callable[[], bool]) -> bool:
    """Returns what a check answers to an ordinary user."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            os.setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def test_a_memfd_that_nobody_maps() -> None:
    """It counts with whoever has it open, and no other file does."""
    code = (
        "import os, tempfile\nfd = os.memfd_create('a')\nos.write(fd, bytes(30 << 20))\n"
        "file = tempfile.TemporaryFile()\nfile.write(bytes(50 << 20))\nfile.flush()"
    )
    with holding(code) as process:
        assert 30 * MIB <= FilesInMemory().measure([process], 0) < 40 * MIB


def test_files_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a descriptor is on its way a session has what such files of the host have grown by."""
    code = "import os, socket\nends = socket.socketpair()\ninput()\n"
    code += (
        "fd = os.memfd_create('a')\nos.write(fd, bytes(30 << 20))\n"
        "socket.send_fds(ends[0], [b'x'], [fd])\nos.close(fd)\nprint(flush=True)\ninput()\n"
        "socket.recv_fds(ends[1], 1, 1)"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None and process.stdout is not None
        stat = read_stat(process.pid)
        assert stat is not None
        monkeypatch.setattr(files_in_memory, "_host_bytes", lambda: 500 * MIB)
        files = FilesInMemory()
        assert files.measure([stat], 0) < MIB
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        monkeypatch.setattr(files_in_memory, "_host_bytes", lambda: 530 * MIB)
        hidden, trusted = files.measure([stat], 0), files.measure([stat], process.pid)
        process.communicate(b"\n")
    assert 30 * MIB <= hidden < 31 * MIB
    assert trusted < MIB  # of the init nothing is looked at


def test_what_would_take_long_counts_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for the same check: what has not been seen by then is the session's."""
    with holding(
        "import mmap\ndata = mmap.mmap(-1, 64 << 20)\ndata.write(bytes(64 << 20))"
    ) as process:
        exact = proportional_bytes([process], 0)
        files = FilesInMemory()
        monkeypatch.setattr(files_in_memory, "MAX_SECONDS", -1)
        monkeypatch.setattr(process_memory, "MAX_SECONDS", -1)
        grown = files_in_memory._host_bytes() + 300 * MIB
        monkeypatch.setattr(files_in_memory, "_host_bytes", lambda: grown)
        assert files.measure([process], 0) > 290 * MIB
        assert proportional_bytes([process], 0) == process.resident_bytes > exact


def test_shared_pages() -> None:
    """What two processes share counts once for both, and exceeds no limit twice."""
    code = (
        "import mmap, os, time\npages = mmap.mmap(-1, 64 << 20)\npages.write(bytes(64 << 20))\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    assert not any(pages[::4096]); os.write(write, b'x'); time.sleep(600)\n"
        "os.read(read, 1)"
    )
    with holding(code) as process:
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        both = [one for pid in (process.pid, child) if (one := read_stat(pid)) is not None]
        resident = sum(one.resident_bytes for one in both)
        files = FilesInMemory()
        shared = proportional_bytes(both, init=0) + files.measure(both, init=0)
        is_half = exceeds(both, 0, resident, shared // 2, files)
        is_double = exceeds(both, 0, resident, (shared + resident) // 2, files)
        os.kill(child, signal.SIGKILL)
        assert 64 * MIB < shared < resident - 60 * MIB
        assert (is_half, is_double) == (True, False)


def test_page_tables() -> None:
    """They count, also where they lead to nothing but the page of zeros, which is nobody's."""
    code = (
        "import ctypes, mmap\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + "
        "[ctypes.c_long]\n"
        "size = 20 << 30\n"
        "flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000\n"  # MAP_NORESERVE
        "start = libc.mmap(None, size, mmap.PROT_READ, flags, -1, 0)\n"
        "libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), 15)\n"  # MADV_NOHUGEPAGE
        "for at in range(0, size, 2 << 20):\n"
        "    ctypes.c_char.from_address(start + at).value\n"
    )
    with holding(code) as process:
        least, files = proportional_bytes([process], 0) + 39 * MIB, FilesInMemory()
        assert 39 * MIB < bytes_beside_pages([process], 0, files) < 44 * MIB
        assert exceeds([process], 0, process.resident_bytes, least, files)
        assert bytes_beside_pages([process], process.pid, files) < MIB  # the init is trusted


def test_a_process_that_hides() -> None:
    """Pages that an ordinary user may not see count in full, but those of the init not at all."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with holding("data = b'x' * (64 << 20)") as process:
        assert proportional_bytes([process], process.pid) > 64 * MIB
        hidden = as_ordinary_user(
            lambda: proportional_bytes([process], init=0) == process.resident_bytes > 64 * MIB
        )
        assert hidden
        assert as_ordinary_user(lambda: proportional_bytes([process], process.pid) == 0)

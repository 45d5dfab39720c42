"""Locks on parts of files are counted by the processes that hold them."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from era_kernels.sandbox.server import file_locks, lock_holders
from era_kernels.sandbox.server.file_locks import read_locks, sessions_past_bound
from era_kernels.sandbox.server.process_tree import ProcStat, read_stat

CLONE_FILES = 0x400
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def own_stat() -> ProcStat:
    found = read_stat(os.getpid())
    assert found is not None
    return found


def count_own(path: Path) -> int:
    return read_locks()[os.getpid(), path.stat().st_ino]


def hold(path: Path, count: int) -> int:
    """Returns a descriptor with which this process holds so many locks."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for start in range(2 * count, 0, -2):
        fcntl.lockf(file, fcntl.LOCK_EX, 1, start)
    return file


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"1: POSIX  ADVISORY  WRITE 412 fe:00:77 0 EOF", (412, 77)),
        (b"1: -> POSIX  ADVISORY  READ 413 fe:00:78 0 EOF", (413, 78)),
        (b"2: OFDLCK ADVISORY  WRITE -1 fe:00:77 3 3", (0, 0)),
        (b"3: FLOCK  ADVISORY", (0, 0)),
        (b"", (0, 0)),
    ],
)
def test_lines(line: bytes, found: tuple[int, int]) -> None:
    """A line names the process; one that waits, one without a process, and what is cut short."""
    assert file_locks._pid_and_inode(line) == found


def test_a_session_past_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the session that holds more than it may is to end, and only while it does."""
    monkeypatch.setattr(file_locks, "MAX_LOCKS", 500)
    processes = {7: [own_stat()], 8: []}
    file = hold(tmp_path / "f", 400)
    assert count_own(tmp_path / "f") == 400
    assert sessions_past_bound(processes) == {}
    more = hold(tmp_path / "g", 400)
    assert sessions_past_bound(processes) == {7: "more than 500 locks on parts of files"}
    os.close(file)
    os.close(more)
    assert sessions_past_bound(processes) == {}


def test_more_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all are read, the session with the most ends; nobody, where they are others'."""
    monkeypatch.setattr(file_locks, "MAX_LOCKS_READ", 300)
    file = hold(tmp_path / "f", 1000)
    why = "300 locks on files, and this session held the most"
    assert sessions_past_bound({7: [own_stat()], 8: []}) == {7: why}
    assert sessions_past_bound({8: []}) == sessions_past_bound({}) == {}
    os.close(file)


def _lock_by_a_child(files: Sequence[int]) -> None:
    """Has a process lock these files that has ended afterwards."""
    child = os.fork()
    if not child:
        try:
            for file in files:
                fcntl.flock(file, fcntl.LOCK_SH)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _open(path: Path, count: int) -> list[int]:
    path.write_bytes(bytes(mmap.PAGESIZE))
    return [os.open(path, os.O_RDWR) for _ in range(count)]


@contextmanager
def _descriptors(path: Path, count: int) -> Iterator[None]:
    """Holds locks by descriptors of the process."""
    files = _open(path, count)
    _lock_by_a_child(files)
    yield
    for file in files:
        os.close(file)


@contextmanager
def _mappings(path: Path, count: int) -> Iterator[None]:
    """Holds locks by mappings alone."""
    files = _open(path, count)
    _lock_by_a_child(files)
    maps = [libc.mmap(None, mmap.PAGESIZE, 1, 2, file, 0) for file in files]
    for file in files:
        os.close(file)
    yield
    for one in maps:
        libc.munmap(ctypes.c_void_p(one), mmap.PAGESIZE)


@contextmanager
def _descriptors_of_a_thread(path: Path, count: int) -> Iterator[None]:
    """Holds locks by descriptors that only one thread has."""
    are_held, end = threading.Event(), threading.Event()

    def work() -> None:
        assert libc.unshare(CLONE_FILES) == 0
        _lock_by_a_child(_open(path, count))
        are_held.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert are_held.wait(10)
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def _bystander(path: Path, count: int) -> Iterator[tuple[ProcStat, Callable[[], None]]]:
    """Another process, and a function that has it make so many locks."""
    ours, its = socket.socketpair()
    child = os.fork()
    if not child:
        its.recv(1)
        hold(path, count)
        its.send(b"1")
        signal.pause()

    def lock() -> None:
        ours.send(b"1")
        ours.recv(1)

    try:
        found = read_stat(child)
        assert found is not None
        yield found, lock
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ours.close()
        its.close()


@pytest.mark.parametrize("way", [_descriptors, _mappings, _descriptors_of_a_thread])
def test_locks_of_ended_processes(
    way: Callable[[Path, int], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever holds the files of such locks ends for them, and nobody else."""
    monkeypatch.setattr(file_locks, "MAX_LOCKS_READ", 300)
    why = "300 locks on files, and this session held the most"
    with (
        _bystander(tmp_path / "g", 150) as (first, lock_before),
        _bystander(tmp_path / "h", 120) as (last, lock_after),
    ):
        lock_before()
        with way(tmp_path / "f", 400):
            lock_after()
            sessions = {8: [first], 7: [own_stat()], 9: [last]}
            assert sessions_past_bound(sessions) == {7: why}


def test_what_takes_long_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session counts as if it held them all where it has too much to be looked through."""
    assert lock_holders.count_open([os.getpid()], {1 << 70}, 300) == 0
    monkeypatch.setattr(lock_holders, "PATIENCE", 0.0)
    assert lock_holders.count_open([os.getpid()], {1 << 70}, 300) == 300


def test_a_process_that_is_not_to_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts by the room of its descriptors; one that has ended does not count."""

    def refuse(path: str) -> list[str]:
        if path.endswith("/fd"):
            raise PermissionError
        return [str(os.getpid())]

    monkeypatch.setattr(os, "listdir", refuse)
    assert lock_holders.count_open([os.getpid()], set(), 30) == 30
    monkeypatch.undo()
    assert lock_holders.count_open([2**22 + 1], set(), 30) == 0

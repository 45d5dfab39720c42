"""Locks on parts of files are counted by the processes that hold them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from era_kernels.sandbox.server import file_locks
from era_kernels.sandbox.server.file_locks import count_by_process, sessions_past_bound
from era_kernels.sandbox.server.process_tree import ProcStat, read_stat


def own_stat() -> ProcStat:
    found = read_stat(os.getpid())
    assert found is not None
    return found


def hold(path: Path, count: int) -> int:
    """Returns a descriptor with which this process holds so many locks."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for start in range(2 * count, 0, -2):
        fcntl.lockf(file, fcntl.LOCK_EX, 1, start)
    return file


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        (b"1: POSIX  ADVISORY  WRITE 412 fe:00:77 0 EOF", 412),
        (b"1: -> POSIX  ADVISORY  READ 413 fe:00:77 0 EOF", 413),
        (b"2: OFDLCK ADVISORY  WRITE -1 fe:00:77 3 3", 0),
        (b"3: FLOCK  ADVISORY", 0),
        (b"", 0),
    ],
)
def test_lines(line: bytes, pid: int) -> None:
    """A line names the process; one that waits, one without a process, and what is cut short."""
    assert file_locks._pid_of(line) == pid


def test_a_session_past_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the session that holds more than it may is to end, and only while it does."""
    monkeypatch.setattr(file_locks, "MAX_LOCKS", 500)
    before = count_by_process()[os.getpid()]
    processes = {7: [own_stat()], 8: []}
    file = hold(tmp_path / "f", 400)
    assert count_by_process()[os.getpid()] == before + 400
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
    why = "300 locks on parts of files, and this session held the most"
    assert sessions_past_bound({7: [own_stat()], 8: []}) == {7: why}
    assert sessions_past_bound({8: []}) == sessions_past_bound({}) == {}
    os.close(file)

"""Connecting where hostile code may have put anything: a socket of its own, or nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from era_kernels.sandbox.server.unix_sockets import can_refuse_descriptors, connect


@contextmanager
def listening(path: Path, backlog: int = 5) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


def test_a_socket_is_connected_to(tmp_path: Path) -> None:
    """The connection is there at once, does not block and leaves no other descriptor open."""
    with listening(tmp_path / "s") as listener:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with connect(tmp_path / "s") as mine, listener.accept()[0] as other:
            assert len(os.listdir("/proc/self/fd")) == before + 2  # noqa: PTH208
            assert not mine.getblocking()
            other.sendall(b"x")
            assert mine.recv(1) == b"x"


@pytest.mark.skipif(not can_refuse_descriptors(), reason="Linux before 6.16 takes descriptors")
def test_no_descriptor_is_taken(tmp_path: Path) -> None:
    """A file would live on in the server's socket, where nobody counts it for its session."""
    with (
        listening(tmp_path / "s") as listener,
        connect(tmp_path / "s"),
        listener.accept()[0] as other,
        Path(os.devnull).open("rb") as file,
        pytest.raises(PermissionError),
    ):
        socket.send_fds(other, [b"x"], [file.fileno()])


def test_what_may_come_later(tmp_path: Path) -> None:
    """No socket yet, one that is not listened on, one that has enough callers."""
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        with pytest.raises(ConnectionRefusedError):
            connect(tmp_path / "s")
    with listening(tmp_path / "t", 0), connect(tmp_path / "t"), pytest.raises(BlockingIOError):
        connect(tmp_path / "t")


@pytest.mark.parametrize("what", ["link", "dangling", "file", "directory", "fifo"])
def test_anything_else_is_refused(tmp_path: Path, what: str) -> None:
    """A link is not followed, also to a socket; what is no socket is not touched."""
    path = tmp_path / "s"
    with listening(tmp_path / "elsewhere") as listener:
        listener.setblocking(False)
        if what == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif what == "dangling":
            path.symlink_to("/nowhere")
        elif what == "file":
            path.touch()
        elif what == "directory":
            path.mkdir()
        else:
            os.mkfifo(path)
        with pytest.raises(OSError, match="non-socket"):
            connect(path)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_socket_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Who listens must be who owns the directory, whatever way a socket came there."""
    home = tmp_path / "home"
    home.mkdir()
    with listening(home / "s"):
        os.chown(home, 1_900_000_001, -1)
        with pytest.raises(PermissionError, match="somebody else"):
            connect(home / "s")

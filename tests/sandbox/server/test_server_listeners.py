"""Where the server listens, it takes a sandbox's own processes, and nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.sandbox.server.server_listeners import (
    ChannelListeners,
    is_from_sandbox,
    listen_on_unix_socket,
)
from era_kernels.sandbox.server.unix_sockets import can_refuse_descriptors
from tests.sandbox.sandboxes import short_directory
from tests.waiting import wait_until

# A process of a sandbox: connects, and says what it receives; a child of its own does so, too.
MEMBER = """
import os, socket, sys
input()
if sys.argv[2:] == ["child"]:
    os.fork() and os._exit(os.wait()[1] >> 8)
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
if sys.argv[2:] == ["gone"]:
    os._exit(0)
print(end.recv(16).decode())
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory / "a.k-1"


def start_member(place: Path, *how: str) -> subprocess.Popen[str]:
    """Starts the init of a sandbox, as far as this matters: it connects when it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", MEMBER, str(place), *how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def connect(address: str | Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(5)
    try:
        end.connect(str(address))
    except OSError:
        end.close()
        raise
    return end


@pytest.mark.parametrize("how", [(), ("child",)])
async def test_only_the_kernel_is_accepted(place: Path, how: tuple[str, ...]) -> None:
    """Others who came first, many of them, are hung up on; the kernel gets its connection."""
    member = start_member(place, *how)
    listeners = ChannelListeners({"iopub": place}, None, member.pid)
    strangers = [connect(place) for _ in range(50)]
    accepted = asyncio.create_task(listeners.accept("iopub"))
    await asyncio.sleep(0.05)
    assert not accepted.done()
    assert member.stdin is not None
    member.stdin.write("\n")
    member.stdin.flush()
    connection = await asyncio.wait_for(accepted, 10)
    assert not connection.getblocking()
    connection.send(b"kernel")
    output, _ = await asyncio.to_thread(member.communicate)
    assert output == "kernel\n"
    assert [stranger.recv(16) for stranger in strangers] == [b""] * 50
    connection.close()
    for stranger in strangers:
        stranger.close()


async def test_nobody_connects_later(place: Path) -> None:
    """With the kernel's connection the name is gone, and who has the path open cannot connect."""
    listeners = ChannelListeners({"iopub": place}, None, os.getpid())
    path = os.open(place, os.O_PATH)
    accepted = asyncio.create_task(listeners.accept("iopub"))
    with connect(place), await accepted:
        assert not place.exists()
        with pytest.raises(ConnectionRefusedError):
            connect(f"/proc/self/fd/{path}")
    os.close(path)
    listeners.close()


async def test_close_while_it_waits(place: Path) -> None:
    """Nothing is left of sockets that nobody came to; their descriptors can be used again."""
    listeners = ChannelListeners({"iopub": place, "shell": place.with_name("b")}, None, 1)
    waiting = asyncio.create_task(listeners.accept("iopub"))
    await asyncio.sleep(0)
    listeners.close()
    listeners.close()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert list(place.parent.iterdir()) == []
    with pytest.raises(ConnectionAbortedError):
        await listeners.accept("shell")
    again = ChannelListeners({"iopub": place}, None, os.getpid())
    accepted = asyncio.create_task(again.accept("iopub"))
    await asyncio.sleep(0)
    with connect(place), await asyncio.wait_for(accepted, 5):
        assert not place.exists()


def test_a_name_that_is_taken(place: Path) -> None:
    """When one of the sockets cannot be made, none is left."""
    (place.parent / "taken").touch()
    with pytest.raises(OSError, match="in use"):
        ChannelListeners({"iopub": place, "shell": place.parent / "taken"}, None, 1)
    assert [path.name for path in place.parent.iterdir()] == ["taken"]


def test_a_process_that_has_ended(place: Path) -> None:
    """Its pid may be another's by now: it counts as nobody's."""
    member = start_member(place, "gone")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        member.communicate("\n")
        connection, _ = listening.accept()
        with connection:
            assert wait_until(lambda: member.poll() is not None)
            assert not is_from_sandbox(member.pid, connection)
            assert not is_from_sandbox(os.getpid(), connection)


@pytest.mark.skipif(not can_refuse_descriptors(), reason="Linux before 6.16 takes descriptors")
@pytest.mark.parametrize("what", ["storage", "kernel"])
def test_no_descriptor_is_taken(place: Path, what: str) -> None:
    """A file would live on in a socket of the server's, where nobody counts it for its session."""
    if what == "storage":
        listener = listen_on_unix_socket(place, None, os.getpid()).socket
        close = listener.close
    else:
        listeners = ChannelListeners({"iopub": place}, None, os.getpid())
        listener, close = listeners._listening["iopub"], listeners.close
    with connect(place) as waiting, Path(os.devnull).open("rb") as file:
        with pytest.raises(PermissionError):  # before the connection is accepted
            socket.send_fds(waiting, [b"x"], [file.fileno()])
        with listener.accept()[0] as accepted:
            with pytest.raises(PermissionError):
                socket.send_fds(waiting, [b"x"], [file.fileno()])
            waiting.send(b"x")
            assert accepted.recv(2) == b"x"
    close()

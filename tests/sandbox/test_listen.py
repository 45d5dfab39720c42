"""The server listens inside a sandbox, in every tier: reached by its code, and by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import unquote

import pytest
from tornado.ioloop import IOLoop

from era_kernels.errors import KernelStartFailed
from era_kernels.models import SessionListener
from era_kernels.sandbox.server.sandbox import Sandbox
from tests.conftest import entered, loop
from tests.sandbox.sandboxes import run_to_end
from tests.sandbox.tiers import program
from tests.waiting import until

PORT = 61787
# Says what the server answers to a connection, given the address and what to send.
ASK = """
import socket, sys, urllib.parse
scheme, _, address = sys.argv[1].partition("://")
end = socket.socket(socket.AF_UNIX if scheme == "http+unix" else socket.AF_INET)
host, _, port = address.partition(":")
end.connect(urllib.parse.unquote(address) if scheme == "http+unix" else (host, int(port)))
end.sendall(b"ping")
print(end.recv(16).decode())
"""


async def serve(listener: SessionListener) -> None:
    """Answers `pong` to connections of the session, and nothing to others."""
    loop = asyncio.get_running_loop()
    listener.socket.setblocking(False)
    while True:
        connection, _ = await loop.sock_accept(listener.socket)
        with closing(connection):
            if listener.is_from_session is None or listener.is_from_session(connection):
                await loop.sock_recv(connection, 16)
                await loop.sock_sendall(connection, b"pong")


io_loop = pytest.fixture(loop, scope="module")


@asynccontextmanager
async def serving(sandbox: Sandbox) -> AsyncIterator[SessionListener]:
    """Listens where the code of a sandbox can reach it."""
    listener = await sandbox.listen(PORT)
    task = asyncio.create_task(serve(listener))
    try:
        yield listener
    finally:
        task.cancel()
        listener.socket.close()


@pytest.fixture
def listener(io_loop: IOLoop, sandbox: Sandbox) -> Iterator[SessionListener]:
    with entered(io_loop, serving(sandbox)) as listener:
        yield listener


async def test_code_reaches_the_server(
    tier: int, sandbox: Sandbox, listener: SessionListener
) -> None:
    """A program of the session and its children connect, at an address that is known before."""
    expected = f"http://127.0.0.1:{PORT}" if tier < 3 else "http+unix://%2F"
    assert listener.url.startswith(expected)
    ending, out, err = await run_to_end(sandbox, program(sandbox, ASK, listener.url))
    assert (ending.code, out) == (0, "pong\n"), err
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    assert (await run_to_end(sandbox, program(sandbox, child, ASK, listener.url)))[1] == "pong\n"


async def test_orphans_reach_the_server(sandbox: Sandbox, listener: SessionListener) -> None:
    """A daemon whose parents are gone is still of the session."""
    daemon = "import os, time\nif os.fork() or os.setsid() or os.fork(): os._exit(0)\n"
    daemon += "time.sleep(0.1)\n" + ASK
    process = await sandbox.spawn(program(sandbox, daemon, listener.url))
    await until(lambda: b"pong" in process.stdout.tail())


async def test_nobody_else_reaches_it(other: Sandbox, listener: SessionListener) -> None:
    """Neither the host nor another session gets an answer at that address."""
    _, out, _ = await run_to_end(other, program(other, ASK, listener.url))
    assert out.strip() == ""
    outside = await asyncio.create_subprocess_exec(
        "/usr/bin/python3", "-c", ASK, listener.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert (await outside.communicate())[0].strip() == b""


TAKE_PORT = """
import errno, socket, sys
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"),
                        (socket.AF_INET6, "::"), (socket.AF_INET6, "::ffff:127.0.0.1")):
    for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,),
                    (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
        end = socket.socket(family)
        for option in options:
            end.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            end.bind((address, int(sys.argv[1].rpartition(":")[2])))
            end.listen()
            print("taken", address, options)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                print(error)
"""
REPLACE_SOCKET = """
import os, socket, sys, urllib.parse
path = urllib.parse.unquote(sys.argv[1].partition("://")[2])
for attempt in (os.unlink, lambda path: os.rename(path, path + "x"),
                lambda path: os.rename(os.environ["TMPDIR"], path),
                lambda path: os.symlink("x", path),
                lambda path: socket.socket(socket.AF_UNIX).bind(path)):
    try:
        attempt(path)
        print("replaced")
    except OSError:
        pass
"""


@pytest.mark.parametrize("opened", [1, 2, 3], indirect=True)
async def test_code_cannot_take_it_over(
    tier: int, sandbox: Sandbox, listener: SessionListener
) -> None:
    """No way of binding gives a program the server's address, and the server goes on."""
    code = TAKE_PORT if tier < 3 else REPLACE_SOCKET
    ending, out, err = await run_to_end(sandbox, program(sandbox, code, listener.url))
    assert (ending.code, out) == (0, ""), err
    assert (await run_to_end(sandbox, program(sandbox, ASK, listener.url)))[1] == "pong\n"


@pytest.mark.parametrize("opened", [1], indirect=True)
async def test_any_free_port_and_a_taken_one(sandbox: Sandbox, listener: SessionListener) -> None:
    """Port 0 is a free one; a port that is taken is an error with the system's words."""
    free = await sandbox.listen(0)
    with closing(free.socket):
        port = int(free.url.rpartition(":")[2])
        assert port not in (0, PORT)
        for taken in (port, PORT):
            with pytest.raises(KernelStartFailed, match="Address already in use"):
                await sandbox.listen(taken)


async def test_nothing_is_left(tier: int, sandbox: Sandbox, listener: SessionListener) -> None:
    """With the sandbox the path of the socket is gone; afterwards it cannot listen."""
    path = Path(unquote(listener.url.partition("://")[2]))
    if tier > 2:
        assert path.is_socket()
    await sandbox.aclose()
    assert not path.exists()
    if tier < 3:
        with pytest.raises(KernelStartFailed, match="its sandbox has ended"):
            await sandbox.listen(PORT)


async def test_a_cancelled_call_leaves_no_socket(sandbox: Sandbox) -> None:
    """Whoever stops waiting does not keep the port taken."""
    task = asyncio.create_task(sandbox.listen(PORT))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():  # it was done before
        task.result().socket.close()
    async with asyncio.timeout(10):
        while True:
            try:
                listener = await sandbox.listen(PORT)
                break
            except KernelStartFailed:  # the reply to the cancelled call is still to come
                await asyncio.sleep(0.01)
    listener.socket.close()

"""The server listens inside a sandbox, in every tier: reached by its code, and by nobody else."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import unquote

import pytest

from era_kernels.errors import KernelStartFailed, StartError
from era_kernels.models import UNSANDBOXED_TIER, Limits, SessionListener, SessionPaths
from era_kernels.sandbox.server.process_command import Command
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.sandbox.sandboxes import run_to_end, short_directory
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


@asynccontextmanager
async def open_tier(tier: int) -> AsyncIterator[tuple[Sandboxes, Path]]:
    """Sandboxes of exactly this tier, and a directory for their sessions."""
    policy = IsolationPolicy(strongest_tier=tier, weakest_tier=tier, allow_weak_tier3=True)
    with short_directory() as runtime, tempfile.TemporaryDirectory(prefix="era-test-") as base:
        Path(base).chmod(0o755)
        try:
            sandboxes = await Sandboxes.open(
                runtime / "r", (), (), None if tier == UNSANDBOXED_TIER else policy
            )
        except StartError as error:
            pytest.skip(f"this host has no tier {tier}: {error}")
        try:
            yield sandboxes, Path(base)
        finally:
            await sandboxes.aclose()


async def new_sandbox(sandboxes: Sandboxes, directory: Path) -> Sandbox:
    paths = SessionPaths(directory / "w", directory / "p", directory / "c")
    for path in (paths.workspace, paths.packages, paths.cache):
        path.mkdir(parents=True)
    return await sandboxes.open_sandbox(paths, Limits())


def program(sandbox: Sandbox, code: str, *args: str) -> Command:
    env = {"PATH": os.defpath, "TMPDIR": str(sandbox.inner_paths.temporary)}
    cwd = str(sandbox.inner_paths.workspace)
    python = "/usr/bin/python3"
    return Command(argv=(python, "-c", code, *args), env=env, cwd=cwd)


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


@pytest.fixture(params=[1, 2, 3, 4])
def tier(request: pytest.FixtureRequest) -> int:
    if not Path("/usr/bin/python3").exists():
        pytest.skip("there is no /usr/bin/python3, which uids of sessions can execute")
    return int(request.param)


@asynccontextmanager
async def listening(tier: int) -> AsyncIterator[tuple[Sandbox, SessionListener, Sandboxes, Path]]:
    """A sandbox whose code can reach the server."""
    async with open_tier(tier) as (sandboxes, base):
        sandbox = await new_sandbox(sandboxes, base / "one")
        listener = await sandbox.listen(PORT)
        task = asyncio.create_task(serve(listener))
        try:
            yield sandbox, listener, sandboxes, base
        finally:
            task.cancel()
            listener.socket.close()


async def test_code_reaches_the_server(tier: int) -> None:
    """A program of the session and its children connect, at an address that is known before."""
    async with listening(tier) as (sandbox, listener, _, _):
        expected = f"http://127.0.0.1:{PORT}" if tier < 3 else "http+unix://%2F"
        assert listener.url.startswith(expected)
        ending, out, err = await run_to_end(sandbox, program(sandbox, ASK, listener.url))
        assert (ending.code, out) == (0, "pong\n"), err
        child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', *sys.argv[1:]])"
        assert (await run_to_end(sandbox, program(sandbox, child, ASK, listener.url)))[
            1
        ] == "pong\n"


async def test_orphans_reach_the_server(tier: int) -> None:
    """A daemon whose parents are gone is still of the session."""
    async with listening(tier) as (sandbox, listener, _, _):
        daemon = "import os, time\nif os.fork() or os.setsid() or os.fork(): os._exit(0)\n"
        daemon += "time.sleep(0.1)\n" + ASK
        process = await sandbox.spawn(program(sandbox, daemon, listener.url))
        await until(lambda: b"pong" in process.stdout.tail())


async def test_nobody_else_reaches_it(tier: int) -> None:
    """Neither the host nor another session gets an answer at that address."""
    async with listening(tier) as (_, listener, sandboxes, base):
        other = await new_sandbox(sandboxes, base / "two")
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


@pytest.mark.parametrize("tier", [1, 2, 3], indirect=True)
async def test_code_cannot_take_it_over(tier: int) -> None:
    """No way of binding gives a program the server's address, and the server goes on."""
    async with listening(tier) as (sandbox, listener, _, _):
        code = TAKE_PORT if tier < 3 else REPLACE_SOCKET
        ending, out, err = await run_to_end(sandbox, program(sandbox, code, listener.url))
        assert (ending.code, out) == (0, ""), err
        assert (await run_to_end(sandbox, program(sandbox, ASK, listener.url)))[1] == "pong\n"


@pytest.mark.parametrize("tier", [1], indirect=True)
async def test_any_free_port_and_a_taken_one(tier: int) -> None:
    """Port 0 is a free one; a port that is taken is an error with the system's words."""
    async with listening(tier) as (sandbox, _, _, _):
        free = await sandbox.listen(0)
        with closing(free.socket):
            port = int(free.url.rpartition(":")[2])
            assert port not in (0, PORT)
            for taken in (port, PORT):
                with pytest.raises(KernelStartFailed, match="Address already in use"):
                    await sandbox.listen(taken)


async def test_nothing_is_left(tier: int) -> None:
    """With the sandbox the path of the socket is gone; afterwards it cannot listen."""
    async with listening(tier) as (sandbox, listener, _, _):
        path = Path(unquote(listener.url.partition("://")[2]))
        if tier > 2:
            assert path.is_socket()
        await sandbox.aclose()
        assert not path.exists()
        if tier < 3:
            with pytest.raises(KernelStartFailed, match="its sandbox has ended"):
                await sandbox.listen(PORT)


async def test_a_cancelled_call_leaves_no_socket(tier: int) -> None:
    """Whoever stops waiting does not keep the port taken."""
    async with open_tier(tier) as (sandboxes, base):
        sandbox = await new_sandbox(sandboxes, base / "one")
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

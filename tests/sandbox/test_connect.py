"""The server connects to ports of a sandbox, in every tier: to its programs, and to nobody else."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import UNSANDBOXED_TIER
from era_kernels.sandbox.server import port_connections
from era_kernels.sandbox.server.process import Process
from era_kernels.sandbox.server.sandbox import Sandbox
from tests.conftest import loop
from tests.sandbox.sandboxes import count_descriptors, wait_for_lines
from tests.sandbox.tiers import OpenTier, program, tier_on
from tests.waiting import until

# Listens as its arguments say and prints the port: address, backlog, then what it does with
# connections (none: accept and answer `pong`).
LISTEN = """
import os, socket, struct, sys, time
address, backlog, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
end = socket.socket(family)
if family == socket.AF_INET6:
    end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
end.bind((address, int(sys.argv[4])))
if what != "bind":
    end.listen(backlog)
print(end.getsockname()[1], flush=True)
kept = []
while what in ("bind", "deaf"):
    time.sleep(60)
while True:
    one, _ = end.accept()
    if what == "once":
        end.close()
    if what == "reset":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    elif what == "child" and os.fork() == 0:
        one.sendall(b"pong")
        time.sleep(60)
    elif what == "child":
        one.close()
    else:
        one.sendall(b"pong")
        kept.append(one)
    if what == "once":
        time.sleep(60)
"""
TIMEOUT = 1.0  # seconds for connections that never come about


io_loop = pytest.fixture(loop, scope="module")


@pytest.fixture(autouse=True)
def short_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that was made ahead is soon closed, so that descriptors can be counted."""
    monkeypatch.setattr(port_connections, "SPARE_SECONDS", 0.1)


@pytest.fixture(scope="module", params=[1, 2, 4])
def opened(io_loop: IOLoop, request: pytest.FixtureRequest) -> Iterator[OpenTier]:
    with tier_on(io_loop, request.param) as opened:
        yield opened


async def start_listener(
    sandbox: Sandbox, what: str = "accept", address: str = "127.0.0.1", backlog: int = 128
) -> tuple[int, Process]:
    """Starts a program that listens on a free port; returns the port."""
    argv = (address, str(backlog), what, "0")
    process = await sandbox.spawn(program(sandbox, LISTEN, *argv))
    (line,) = await wait_for_lines(process, 1)
    return int(line), process


async def receive(connection: socket.socket) -> bytes:
    with closing(connection):
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(connection, 16)


@asynccontextmanager
async def same_descriptors() -> AsyncIterator[None]:
    """What happens inside leaves no descriptor open in this process."""
    before = count_descriptors(os.getpid())
    yield
    await until(lambda: count_descriptors(os.getpid()) <= before)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
async def test_a_program_is_reached(sandbox: Sandbox, address: str) -> None:
    """Whatever address it listens on that 127.0.0.1 leads to, its bytes come, without delay."""
    port, _ = await start_listener(sandbox, address=address)
    connection = await sandbox.connect(port)
    assert connection.gettimeout() == 0
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not connection.get_inheritable()
    assert await receive(connection) == b"pong"


@pytest.mark.parametrize("what", ["once", "child"])
async def test_who_accepts_may_be_another_than_who_listens(sandbox: Sandbox, what: str) -> None:
    """A program that closes its listener, and one whose children answer, are reached as well."""
    port, _ = await start_listener(sandbox, what)
    assert await receive(await sandbox.connect(port)) == b"pong"


@pytest.mark.parametrize("what", ["nothing", "bind", "ended"])
async def test_refused(sandbox: Sandbox, what: str) -> None:
    """No program has the port, it is bound and nothing listens, or its program has ended."""
    port, process = await start_listener(sandbox, "bind" if what == "bind" else "accept")
    if what != "bind":
        await process.signal(9)
        await process.ended
    async with same_descriptors():
        for _ in range(20):
            with pytest.raises(ConnectionRefusedError):
                await sandbox.connect(1 if what == "nothing" else port)


async def test_a_full_backlog_delays_nobody(sandbox: Sandbox) -> None:
    """A program that listens and never accepts takes no time of the init: others go on at once."""
    deaf, _ = await start_listener(sandbox, "deaf", backlog=1)
    port, _ = await start_listener(sandbox)
    async with same_descriptors():
        waiting = [asyncio.create_task(sandbox.connect(deaf, 4)) for _ in range(50)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(3):
            assert await receive(await sandbox.connect(port)) == b"pong"
            answer = await sandbox.spawn(program(sandbox, "print(1)"))
            assert (await answer.ended).code == 0
        results = await asyncio.gather(*waiting, return_exceptions=True)
        taken = [one for one in results if isinstance(one, socket.socket)]
        failed = [one for one in results if not isinstance(one, socket.socket)]
        assert len(taken) <= 10  # what fits into the backlog
        assert all(isinstance(one, TimeoutError) for one in failed)
        assert "no program took the connection within 4 seconds" in str(failed[0])
        for one in taken:
            one.close()


async def test_a_reset_in_the_middle_is_seen(sandbox: Sandbox) -> None:
    """A program that resets each connection gives an error to whoever connects, or who reads."""
    port, _ = await start_listener(sandbox, "reset")
    async with same_descriptors():
        for _ in range(20):
            with pytest.raises(ConnectionError):
                data = await receive(await sandbox.connect(port))
                assert not data


async def test_ports_of_others_are_not_reached(tier: int, sandbox: Sandbox, other: Sandbox) -> None:
    """The same port of another session, and one of the host, are none of this session."""
    port, _ = await start_listener(other)
    expected = ConnectionRefusedError if tier < 3 else PermissionError
    with socket.create_server(("127.0.0.1", 0)) as host:
        host.setblocking(False)
        async with same_descriptors():
            for foreign in (port, host.getsockname()[1]):
                with pytest.raises(expected):
                    await sandbox.connect(foreign)
        with pytest.raises(BlockingIOError):  # not even connected to
            host.accept()
    assert await receive(await other.connect(port)) == b"pong"


async def test_a_program_that_ends_meanwhile(sandbox: Sandbox) -> None:
    """A listener whose process is being killed is refused or reset, never taken for another's."""
    for number in range(15):
        port, process = await start_listener(sandbox)
        task = asyncio.create_task(sandbox.connect(port))
        await asyncio.sleep(number * 0.003)
        await process.signal(9)
        try:
            (await task).close()
        except ConnectionError as error:
            assert not isinstance(error, ConnectionAbortedError)


@pytest.mark.parametrize("opened", [1], indirect=True)
async def test_sessions_have_the_same_ports(sandbox: Sandbox, other: Sandbox) -> None:
    """With namespaces each session has all ports: a connection leads to that session's program."""
    port, _ = await start_listener(sandbox)
    own = "import os; os.write(1, b'ready\\n'); "
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); {own}"
    process = await other.spawn(program(other, f"{code}s.accept()[0].sendall(b'other')"))
    await wait_for_lines(process, 1)
    assert await receive(await other.connect(port)) == b"other"
    assert await receive(await sandbox.connect(port)) == b"pong"


async def test_many_at_once(tier: int, sandbox: Sandbox) -> None:
    """Hundreds of connections at once come about, and leave nothing."""
    count = 50 if tier == UNSANDBOXED_TIER else 300  # there each takes reads of /proc
    port, _ = await start_listener(sandbox, backlog=1024)
    async with same_descriptors():
        opened = await asyncio.gather(*(sandbox.connect(port, 90) for _ in range(count)))
        assert await asyncio.gather(*map(receive, opened)) == [b"pong"] * count


async def test_whoever_stops_waiting_leaves_nothing(sandbox: Sandbox) -> None:
    """A call that is cancelled at any moment leaves no descriptor, and the next one works."""
    port, _ = await start_listener(sandbox)
    deaf, _ = await start_listener(sandbox, "deaf", backlog=1)
    async with same_descriptors():
        for number in range(40):
            task = asyncio.create_task(sandbox.connect(deaf if number % 2 else port))
            await asyncio.sleep(number % 10 * 0.0003)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():  # it was done before
                task.result().close()
        assert await receive(await sandbox.connect(port)) == b"pong"


async def test_without_descriptors(sandbox: Sandbox) -> None:
    """A server that may open no more files is told so, and goes on when it may."""
    port, _ = await start_listener(sandbox)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = os.open("/dev/null", os.O_RDONLY)
    os.close(held)  # the lowest number that is free
    resource.setrlimit(resource.RLIMIT_NOFILE, (held, limits[1]))
    try:
        with suppress(OSError):  # one that was made ahead may be left
            (await sandbox.connect(port)).close()
        for _ in range(5):
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as caught:
                await sandbox.connect(port)
            assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await receive(await sandbox.connect(port)) == b"pong"


async def test_after_the_end(sandbox: Sandbox) -> None:
    """A sandbox that has ended, or ends meanwhile, says so."""
    deaf, _ = await start_listener(sandbox, "deaf", backlog=0)
    async with same_descriptors():
        waiting = [asyncio.create_task(sandbox.connect(deaf, TIMEOUT)) for _ in range(20)]
        closing_sandbox = asyncio.create_task(sandbox.aclose())
        for one in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(one, OSError | socket.socket), one
            if isinstance(one, socket.socket):
                one.close()
        await closing_sandbox
        with pytest.raises(ConnectionAbortedError, match="its sandbox has ended"):
            await sandbox.connect(deaf)


@pytest.mark.parametrize("port", [-1, 0, 1 << 16])
async def test_there_is_no_such_port(sandbox: Sandbox, port: int) -> None:
    """A number that is no port never comes to the init."""
    with pytest.raises(ValueError, match=f"no port {port}"):
        await sandbox.connect(port)
    process = await sandbox.spawn(program(sandbox, "print(1)"))
    assert (await process.ended).code == 0


@pytest.mark.parametrize("opened", [3], indirect=True)
async def test_tier_3_has_no_such_sockets(sandbox: Sandbox) -> None:
    """It is refused in words, also where the host listens on that port."""
    with socket.create_server(("127.0.0.1", 0)) as host:
        host.setblocking(False)
        with pytest.raises(OSError, match="no internet sockets") as caught:
            await sandbox.connect(host.getsockname()[1])
        assert caught.value.errno == errno.EAFNOSUPPORT
        with pytest.raises(BlockingIOError):
            host.accept()


async def test_a_socket_never_connects_to_itself() -> None:
    """Where Linux gives a connection the very port that it goes to, that is a refusal."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        end.connect(end.getsockname())
        with pytest.raises(ConnectionRefusedError):
            await port_connections._wait_established(end)


@pytest.mark.parametrize("opened", [1, 2], indirect=True)
async def test_a_socket_is_made_ahead(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second connection does not wait for the init; a while later nothing is kept."""
    monkeypatch.setattr(port_connections, "SPARE_SECONDS", 1.0)
    port, _ = await start_listener(sandbox)
    async with same_descriptors():
        assert await receive(await sandbox.connect(port)) == b"pong"
        assert sandbox.pid is not None
        await until(lambda: sandbox._sockets._spare is not None)
        os.kill(sandbox.pid, signal.SIGSTOP)  # the init
        try:
            async with asyncio.timeout(1):
                connection = await sandbox.connect(port)
        finally:
            os.kill(sandbox.pid, signal.SIGCONT)
        assert await receive(connection) == b"pong"
        await until(lambda: sandbox._sockets._spare is None)


@pytest.mark.parametrize("opened", [1], indirect=True)
@pytest.mark.parametrize("moment", range(8))
async def test_no_socket_outlives_its_sandbox(sandbox: Sandbox, moment: int) -> None:
    """A socket that was made ahead, or is being made, would keep the network namespace."""
    before = count_descriptors(os.getpid())
    port, _ = await start_listener(sandbox)
    (await sandbox.connect(port)).close()
    await asyncio.sleep(moment * 0.0003)
    await sandbox.aclose()
    await asyncio.sleep(0)
    assert sandbox._sockets._spare is None
    assert count_descriptors(os.getpid()) < before

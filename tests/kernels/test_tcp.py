"""Kernels that speak tcp: the same runs as by unix sockets, and what stands in their way."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import zmq
from jupyter_client.session import Session
from tornado.ioloop import IOLoop

from era_kernels.errors import KernelStartFailed, LanguageUnavailable, StartError
from era_kernels.kernels.exec_process import ExecProcess
from era_kernels.kernels.kernel import Kernel
from era_kernels.kernels.kernel_ports import NAMESPACE_PORTS, PORT_COUNT, KernelPorts
from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.kernels.languages import Languages
from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.kernels.wire_protocol import ConnectionInfo
from era_kernels.models import (
    UNSANDBOXED_TIER,
    EndReason,
    ExecutionEnd,
    ExitInfo,
    JsonObject,
    KernelRequest,
    Limits,
    Network,
    Output,
    Stdout,
)
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.conftest import entered
from tests.kernels.conftest import make_paths
from tests.kernels.scripted_kernel import FakeMachineHandle, connect_port
from tests.kernels.test_machine import run

# Our own kernel and the stock one, as programs that read a connection file.
OWN_ARGV = ("python", str(builtin_dir() / "python"), "{connection_file}")
STOCK_ARGV = ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
NAMED_TCP = {"metadata": {"era_kernels": {"transport": "tcp"}}}

NAMED_STOCK = {"metadata": {"era_kernels": {"transport": "tcp", "fence": False}}}


@asynccontextmanager
async def open_host(
    tier: int, directory: Path, argv: tuple[str, ...] = OWN_ARGV, keys: JsonObject = NAMED_TCP
) -> AsyncIterator[Machines]:
    """A host of exactly this tier, with one more language, `toy`, whose kernel is that program."""
    folder = directory / "specs" / "toy"
    folder.mkdir(parents=True)
    kernel_json = {"argv": argv, "display_name": "Toy", "language": "toy", **keys}
    (folder / "kernel.json").write_text(json.dumps(kernel_json))
    languages = Languages.load([folder.parent])
    policy = IsolationPolicy(
        strongest_tier=tier,
        weakest_tier=tier,
        allow_weak_tier3=True,
        readable_paths=languages.readable_paths,
    )
    with tempfile.TemporaryDirectory(prefix="era-") as runtime:
        try:
            sandboxes = await Sandboxes.open(
                Path(runtime), (), (), None if tier == UNSANDBOXED_TIER else policy
            )
        except StartError as error:
            pytest.skip(f"this host has no tier {tier}: {error}")
        host = Machines(languages, sandboxes)
        try:
            yield host
        finally:
            await host.aclose()
            await sandboxes.aclose()


async def open_machine(host: Machines, directory: Path, *, kernel: bool = True) -> Machine:
    return await host.open("toy", make_paths(directory), Limits(), {}, kernel=kernel)


class TcpMachines:
    """Four machines of a tier, which tests share; one that a test has ended is replaced."""

    def __init__(self, host: Machines, directory: Path) -> None:
        self._host, self._directory = host, directory
        self._opened: dict[int, Machine] = {}

    async def running(self, *numbers: int) -> list[Machine]:
        """Returns these machines; those that have to be opened start at once."""
        found = await asyncio.gather(*(self._keep(self._opened.get(one)) for one in numbers))
        self._opened.update(zip(numbers, found, strict=True))
        return found

    async def _keep(self, machine: Machine | None) -> Machine:
        if machine is not None and machine.is_running:
            return machine
        return await open_machine(self._host, Path(tempfile.mkdtemp(dir=self._directory)))


@asynccontextmanager
async def open_machines(tier: int, directory: Path) -> AsyncIterator[TcpMachines]:
    async with open_host(tier, directory) as host:
        yield TcpMachines(host, directory)


@pytest.fixture(scope="module", params=[1, 2, 4])
def machines(
    io_loop: IOLoop, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TcpMachines]:
    directory = tmp_path_factory.mktemp("tcp")
    with entered(io_loop, open_machines(request.param, directory)) as machines:
        yield machines


# ---------------------------------------------------------------- kernels that run


async def test_sessions_are_apart(machines: TcpMachines) -> None:
    """Kernels that started at once each run what is theirs."""
    opened = await machines.running(0, 1, 2, 3)
    for number, machine in enumerate(opened):
        await run(machine, f"x = {number}")
    texts = [(await run(machine, "print(x)"))[0] for machine in opened]
    assert texts == ["0\n", "1\n", "2\n", "3\n"]


async def test_interrupts(machines: TcpMachines) -> None:
    """A deadline interrupts a run, which keeps the state."""
    [machine] = await machines.running(3)
    await run(machine, "x = 1")
    assert (await run(machine, "import time; time.sleep(60)", 0.5))[1].exit_code == 124
    assert (await run(machine, "print(x)"))[0] == "1\n"


async def test_runs(machines: TcpMachines) -> None:
    """State lives on, a failure is told, 10 MB of lines arrive whole, and so does a last word."""
    [machine] = await machines.running(0)
    assert await run(machine, "x = 41") == ("", ExecutionEnd(0))
    assert await run(machine, "print(x + 1)") == ("42\n", ExecutionEnd(0))
    assert (await run(machine, "import sys; sys.exit(3)"))[1].exit_code == 3
    text, _ = await run(machine, "for n in range(100_000): print(f'{n:06d}', 'x' * 92)", 90)
    assert text == "".join(f"{n:06d} {'x' * 92}\n" for n in range(100_000))
    text, end = await run(machine, "import os; print('y' * 1_000_000); os._exit(5)")
    assert (text, end.exit_code) == ("y" * 1_000_000 + "\n", 5)


async def test_last_output_arrives_whole(machines: TcpMachines) -> None:
    """A slow consumer gets all output of a program that prints much and exits at once."""
    code = "import os\nfor n in range(20_000):\n    print(f'{n:0500d}')\nos._exit(7)"
    [machine] = await machines.running(1)
    items: list[Output | ExecutionEnd] = []
    async with aclosing(machine.kernel.execute(KernelRequest(code, {}, 90, 1))) as batches:
        async for batch in batches:
            items += batch
            await asyncio.sleep(0.05)
    text = "".join(item.content for item in items if isinstance(item, Stdout))
    assert text == "".join(f"{n:0500d}\n" for n in range(20_000))
    assert items[-1] == ExecutionEnd(7, state="lost", exit_info=ExitInfo(code=7))


async def test_the_end_is_told(machines: TcpMachines) -> None:
    """A kernel that is killed in a run is reported with the signal, not as a lost connection."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    [machine] = await machines.running(2)
    _, end = await run(machine, code)
    assert (end.exit_code, end.state) == (137, "lost")
    assert end.exit_info is not None
    assert end.exit_info.signal == signal.SIGKILL


@pytest.mark.parametrize("tier", [1, 2, 4])
@pytest.mark.parametrize("keys", [NAMED_STOCK, {}])
async def test_the_stock_kernel_runs(tier: int, tmp_path: Path, keys: JsonObject) -> None:
    """The stock ipykernel runs by tcp, named in our metadata or chosen without any."""
    async with open_host(tier, tmp_path, STOCK_ARGV, keys) as host:
        expected = "ipc" if tier == UNSANDBOXED_TIER and not keys else "tcp"
        assert host.languages.resolve("toy").default.transport == expected
        machine = await open_machine(host, tmp_path / "one")
        assert await run(machine, "x = 41") == ("", ExecutionEnd(0))
        assert (await run(machine, "print(x + 1)"))[0] == "42\n"
        text, _ = await run(machine, "print('y' * 1_000_000)")
        assert text == "y" * 1_000_000 + "\n"
        assert (await run(machine, "import time; time.sleep(60)", 0.5))[1].exit_code == 124
        assert (await run(machine, "print(x)"))[0] == "41\n"


# ---------------------------------------------------------------- where tcp is not possible


@pytest.mark.parametrize("argv", [OWN_ARGV, STOCK_ARGV])
async def test_tier_3_has_no_tcp(tmp_path: Path, argv: tuple[str, ...]) -> None:
    """A kernel that wants tcp is unavailable, told in words, also after it was looked at again."""
    async with open_host(3, tmp_path, argv) as host:
        kernelspec = host.languages.resolve("toy").default
        assert not kernelspec.is_available
        assert "no internet sockets" in (kernelspec.unavailable_reason or "")
        with pytest.raises(LanguageUnavailable, match=r"toy cannot run .* it speaks tcp"):
            await open_machine(host, tmp_path / "one")


@pytest.mark.parametrize(
    ("keys", "network", "transport"),
    [
        ({}, Network.OWN, "tcp"),
        ({}, Network.HOST, "ipc"),
        ({}, Network.NONE, "ipc"),
        ({"metadata": {"other": 1}}, Network.OWN, "tcp"),
        ({"metadata": {"era_kernels": {}}}, Network.OWN, "ipc"),
        ({"metadata": {"era_kernels": {"transport": "ipc"}}}, Network.OWN, "ipc"),
        (NAMED_TCP, Network.HOST, "tcp"),
        (NAMED_TCP, Network.NONE, "tcp"),
    ],
)
def test_who_chooses(tmp_path: Path, keys: JsonObject, network: Network, transport: str) -> None:
    """Our metadata says it, and ipc without a word; for a stock kernel the walls do."""
    folder = tmp_path / "toy"
    folder.mkdir()
    kernel_json = {"argv": OWN_ARGV, "display_name": "Toy", "language": "toy", **keys}
    (folder / "kernel.json").write_text(json.dumps(kernel_json))
    languages = Languages.load([tmp_path])
    languages.set_network(network)
    kernelspec = languages.resolve("TOY").default
    assert kernelspec.transport == transport
    assert kernelspec.is_available == (transport == "ipc" or network is not Network.NONE)
    assert languages.resolve("py").default.is_available


# ---------------------------------------------------------------- ports


def test_ports_are_given_once() -> None:
    """No port of a kernel is another's, also when a thousand are started, until it is released."""
    ports = KernelPorts(Network.HOST)
    taken = [ports.take() for _ in range(200)]
    numbers = {port for five in taken for port in five}
    assert len(numbers) == 200 * PORT_COUNT
    for five in taken:
        ports.release(five)
    assert ports._taken == set()
    assert KernelPorts(Network.OWN).take() == NAMESPACE_PORTS


async def test_ports_are_released(tmp_path: Path) -> None:
    """With a kernel, its ports are free again."""
    async with open_host(UNSANDBOXED_TIER, tmp_path) as host:
        machine = await open_machine(host, tmp_path / "one")
        assert len(host._kernel_ports._taken) == PORT_COUNT
        await machine.aclose()
        await asyncio.sleep(0)
        assert host._kernel_ports._taken == set()


# Takes the ports of a kernel and behaves there as its first argument says.
TAKE_PORTS = f"""
import socket, struct, sys, time
what, ports = sys.argv[1], {NAMESPACE_PORTS}
ends = [socket.create_server(("127.0.0.1", port), backlog=0) for port in ports]
print("taken", flush=True)
while what == "deaf":
    time.sleep(60)
import select
kept = []
while True:
    for end in select.select(ends, [], [])[0]:
        one, _ = end.accept()
        kept.append(one)
        if what == "reset":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        elif what == "http":
            one.sendall(b"HTTP/1.1 400 Bad Request" + bytes(1000))
"""


@pytest.mark.parametrize("what", ["deaf", "silent", "reset", "http"])
async def test_ports_that_a_program_took(tmp_path: Path, what: str) -> None:
    """A program that has the ports before the kernel: it does not start, soon and in words."""
    async with open_host(1, tmp_path) as host:
        machine = await open_machine(host, tmp_path / "one", kernel=False)
        program = await machine.start_command(["python3", "-c", TAKE_PORTS, what], {})
        assert isinstance(program, ExecProcess)
        events = program.events(60)
        assert await anext(events) == [Stdout("taken\n")]
        began = time.monotonic()
        with pytest.raises(KernelStartFailed, match="ended before it was ready"):
            await machine.start_kernel({})
        assert time.monotonic() - began < 20  # seconds; a deadline of a start is 60
        assert not machine.is_running
        await events.aclose()


async def test_a_forger_is_dropped(tmp_path: Path) -> None:
    """A program in the place of a kernel that does not know its key: all is dropped and counted."""
    ports = KernelPorts(Network.HOST).take()
    connection, machine = ConnectionInfo.new(tmp_path, tcp_ports=ports), FakeMachineHandle()
    forger = Session(key=b"another", digest_history_size=0)
    context: zmq.Context[bytes] = zmq.Context()
    kinds = {"iopub": zmq.PUB, "shell": zmq.ROUTER, "control": zmq.ROUTER, "stdin": zmq.ROUTER}
    ends = {name: context.socket(kind) for name, kind in kinds.items()}
    for name, end in ends.items():
        end.bind(connection.address(name))
    kernel = Kernel(connection, machine, connect_port=connect_port)
    try:
        ready = asyncio.create_task(kernel.wait_ready(2))
        while not ready.done():
            forger.send(ends["iopub"], "status", {"execution_state": "idle"})
            while ends["shell"].poll(0):
                identity = ends["shell"].recv_multipart()[0]
                forger.send(ends["shell"], "kernel_info_reply", {}, ident=[identity])
            await asyncio.sleep(0.02)
        with pytest.raises(KernelStartFailed, match="not ready within 2 seconds"):
            await ready
        assert kernel.dropped_count > 20
    finally:
        machine.end(ExitInfo(reason=EndReason.STOPPED))
        await asyncio.sleep(0.01)
        context.destroy(linger=0)


@pytest.mark.parametrize("error", [PermissionError(13, "not yours"), OSError(24, "no files")])
async def test_an_error_that_does_not_pass(tmp_path: Path, error: OSError) -> None:
    """Whoever is in the place of a kernel, or the lack of descriptors, ends the start in words."""

    async def fail(port: int) -> object:
        raise error

    ports = KernelPorts(Network.HOST).take()
    connection, machine = ConnectionInfo.new(tmp_path, tcp_ports=ports), FakeMachineHandle()
    kernel = Kernel(connection, machine, connect_port=fail)  # type: ignore[arg-type]
    with pytest.raises(KernelStartFailed, match=r"something else lies|cannot be reached: no files"):
        await kernel.wait_ready(10)


@pytest.mark.parametrize("error", [ConnectionRefusedError, TimeoutError])
async def test_an_error_that_passes(tmp_path: Path, error: Callable[[], OSError]) -> None:
    """A port that nobody has bound yet, and a full backlog, are tried again, not too often."""
    times: list[float] = []

    async def fail(port: int) -> object:
        times.append(time.monotonic())
        raise error()

    ports = KernelPorts(Network.HOST).take()
    connection, machine = ConnectionInfo.new(tmp_path, tcp_ports=ports), FakeMachineHandle()
    kernel = Kernel(connection, machine, connect_port=fail)  # type: ignore[arg-type]
    with pytest.raises(KernelStartFailed, match="not ready within 1 seconds"):
        await kernel.wait_ready(1)
    assert 10 < len(times) < 150
    machine.end(ExitInfo(reason=EndReason.STOPPED))
    await asyncio.sleep(0.05)
    count = len(times)
    await asyncio.sleep(0.05)
    assert len(times) == count

"""A peer that breaks the protocol has its kernel ended with the cause, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.concurrency.memory_in_work import MemoryInWork
from era_kernels.errors import KernelStartFailed
from era_kernels.kernels import zmtp
from era_kernels.kernels.active_run import KernelTimeouts
from era_kernels.kernels.channel_connection import (
    CONNECTION_CLOSED,
    MESSAGE_STALLED,
    PROTOCOL_VIOLATION,
    ChannelConnection,
)
from era_kernels.kernels.kernel import Kernel
from era_kernels.kernels.receive_budget import ReceiveBudget
from era_kernels.kernels.wire_protocol import ConnectionInfo, Transport
from era_kernels.models import EndReason, ExecutionEnd, ExitInfo
from era_kernels.sandbox.server import unix_sockets
from tests.kernels.scripted_kernel import (
    FakeMachineHandle,
    OpenHarness,
    ScriptedKernel,
    connect_port,
)
from tests.waiting import until

XPUB = zmtp.command(b"READY", b"\x0bSocket-Type\0\0\0\x04XPUB")
BEGIN = zmtp.greeting() + XPUB


@pytest.fixture(params=["ipc", "tcp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    chosen: Transport = request.param
    return chosen


@contextlib.contextmanager
def open_listener(transport: Transport, directory: Path) -> Iterator[socket.socket]:
    """Listens as a kernel would."""
    with socket.socket(socket.AF_UNIX if transport == "ipc" else socket.AF_INET) as listener:
        listener.bind(f"{directory}/s" if transport == "ipc" else ("127.0.0.1", 0))
        listener.listen()
        yield listener


async def connect_to(listener: socket.socket) -> socket.socket:
    if listener.family == socket.AF_UNIX:
        return unix_sockets.connect(Path(listener.getsockname()))
    return await connect_port(listener.getsockname()[1])


async def receive_all(
    transport: Transport, directory: Path, *sent: bytes, hang_up: bool = False
) -> list[str | list[bytes]]:
    """Returns what a SUB reads from those bytes: messages, and at last the reason of its end."""
    found: list[str | list[bytes]] = []

    with open_listener(transport, directory) as listener:
        over = asyncio.Event()

        def on_lost(reason: str) -> None:
            found.append(reason)
            over.set()

        def receive(parts: zmtp.Multipart) -> None:
            found.append([bytes(part) for part in parts])

        channel = ChannelConnection("SUB", b"", receive, on_lost)
        channel.open(await connect_to(listener))
        with listener.accept()[0] as peer:
            for data in sent:
                with contextlib.suppress(OSError):  # it hung up on us
                    peer.sendall(data)
                await asyncio.sleep(0.02)
            if hang_up:
                peer.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.3)
        channel.close()
    return found


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([b"GET / HTTP/1.1\r\n"], "its greeting is not that of ZMTP"),
        ([zmtp.greeting(), zmtp.frame(b"x")], "a message came before READY"),
        ([zmtp.greeting(), zmtp.command(b"PING", b"\0\0")], "a command came before READY"),
        ([zmtp.greeting(), zmtp.ready("DEALER")], "its socket has the wrong type"),
        ([zmtp.greeting(), zmtp.command(b"ERROR", b"\x02no")], "it answered with an error"),
        ([BEGIN, b"\xfd\x00"], "a frame has flags that mean nothing"),
        ([BEGIN, b"\x01\x00" * 65], "a message has more than 64 parts"),
        ([BEGIN, b"\x02" + b"\xff" * 8], "a message has more than 128 MiB"),
    ],
)
async def test_a_broken_protocol_is_reported(
    transport: Transport, tmp_path: Path, sent: list[bytes], reason: str
) -> None:
    """The connection ends at once, with what was wrong in words."""
    assert await receive_all(transport, tmp_path, *sent) == [f"{PROTOCOL_VIOLATION}: {reason}"]


async def test_what_came_before_an_end_is_received(transport: Transport, tmp_path: Path) -> None:
    """Messages that arrived whole are handed over; the torn one is not, and then comes the end."""
    data = zmtp.frame(b"whole") + zmtp.frame(bytes(10))[:5]
    assert await receive_all(transport, tmp_path, BEGIN + data, hang_up=True) == [
        [b"whole"],
        CONNECTION_CLOSED,
    ]


async def test_a_peer_that_says_nothing_is_waited_for(transport: Transport, tmp_path: Path) -> None:
    """Silence is no end: each caller that waits for a reply has its own timeout."""
    assert await receive_all(transport, tmp_path, zmtp.greeting()[:10]) == []


async def test_messages_that_never_end_take_little_together(
    transport: Transport, tmp_path: Path
) -> None:
    """Past a bound for all peers one alone goes on; while it stands still, others evict it."""
    max_bytes, each = 7 << 20, 6 << 20
    receive_budget = ReceiveBudget(MemoryInWork(max_bytes, stall_seconds=0.3))
    lost: list[tuple[int, str]] = []
    whole: list[int] = []

    with open_listener(transport, tmp_path) as listener:
        opened = []
        for number in range(3):
            channel = ChannelConnection(
                "SUB",
                b"",
                lambda parts: whole.append(len(parts[0])),
                lambda reason, number=number: lost.append((number, reason)),  # type: ignore[misc]
                receive_budget=receive_budget,
            )
            channel.open(await connect_to(listener))
            peer, _ = listener.accept()
            opened.append((channel, peer))
            begin = BEGIN + zmtp.frame_header(each + 1) + bytes(each)
            await asyncio.to_thread(_send, peer, begin)
            await until(lambda: number in _settled(opened, lost, each))  # noqa: B023
            assert sum(one._decoder.buffered_bytes for one, _ in opened) <= max_bytes + each
        for number, (_, peer) in enumerate(opened):
            if (number, MESSAGE_STALLED) not in lost:
                await asyncio.to_thread(_send, peer, b"x")
        await until(lambda: len(whole) + len(lost) == 3)
        assert whole
        assert {reason for _, reason in lost} == {MESSAGE_STALLED}
        for channel, peer in opened:
            channel.close()
            peer.close()
    assert not receive_budget._holdings


def _settled(
    opened: list[tuple[ChannelConnection, socket.socket]], lost: list[tuple[int, str]], size: int
) -> set[int]:
    """The peers whose bytes are all here, and those that were evicted."""
    here = {n for n, (one, _) in enumerate(opened) if one._decoder.buffered_bytes == size}
    return here | {number for number, _ in lost}


def _send(peer: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it hung up on us
        peer.sendall(data)


async def test_pings_take_no_memory(transport: Transport, tmp_path: Path) -> None:
    """Endless PINGs of a peer that reads no PONG are not answered for ever."""
    flood = zmtp.command(b"PING", bytes(18)) * 200_000
    sizes = []

    with open_listener(transport, tmp_path) as listener:
        channel = ChannelConnection("SUB", b"", lambda parts: None, lambda reason: None)
        channel.open(await connect_to(listener))
        peer, _ = listener.accept()
        thread = threading.Thread(target=peer.sendall, args=(BEGIN + flood,))
        thread.start()
        while thread.is_alive():
            sizes.append(channel._writer.pending_bytes)
            await asyncio.sleep(0)
        channel.close()
        peer.close()
    assert max(sizes) < 1000


# ---------------------------------------------------------------- the kernel around it


async def test_a_run_ends_with_the_cause(transport: Transport, run_in_harness: OpenHarness) -> None:
    """A kernel that sends a message of too many parts in a run is ended, and the run says why."""

    def script(scripted: ScriptedKernel, request: object) -> None:
        scripted.iopub.send_multipart([b"x"] * 65)

    async with run_in_harness(script, transport=transport) as harness:
        reason = f"{PROTOCOL_VIOLATION}: a message has more than 64 parts"
        assert await harness.run() == [
            ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=reason))
        ]


@pytest.mark.parametrize("name", ["shell", "iopub", "control", "stdin"])
async def test_a_lost_connection_ends_the_kernel(
    transport: Transport, run_in_harness: OpenHarness, name: str
) -> None:
    """A socket that is closed while the process lives on: the machine is ended after a while."""

    def script(scripted: ScriptedKernel, request: object) -> None:
        getattr(scripted, name).close(linger=0)
        scripted._is_stopped = True  # it would only fail

    async with run_in_harness(script, KernelTimeouts(exit=0.2), transport=transport) as harness:
        assert await harness.run() == [
            ExecutionEnd(137, state="lost", exit_info=ExitInfo(reason=CONNECTION_CLOSED))
        ]


async def test_a_process_that_ends_tells_how(
    transport: Transport, run_in_harness: OpenHarness
) -> None:
    """A process closes its sockets before it ends; the run reports how it ended."""

    def script(scripted: ScriptedKernel, request: object) -> None:
        scripted.iopub.close(linger=0)
        scripted._is_stopped = True

    async with run_in_harness(script, KernelTimeouts(exit=5), transport=transport) as harness:
        asyncio.get_running_loop().call_later(0.3, harness.machine.end, ExitInfo(code=7))
        (finished,) = await harness.run()
        assert finished == ExecutionEnd(7, state="lost", exit_info=ExitInfo(code=7))


async def test_a_link_in_the_place_of_a_socket_is_not_followed(tmp_path: Path) -> None:
    """A kernel that puts a link to another's socket where its own should be has failed to start."""
    connection, machine = ConnectionInfo.new(tmp_path), FakeMachineHandle()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/other")
        other.listen()
        other.setblocking(False)
        connection.socket_path("iopub").symlink_to(tmp_path / "other")
        kernel = Kernel(connection, machine)
        with pytest.raises(KernelStartFailed, match="something else lies in the place"):
            await kernel.wait_ready(10)
        with pytest.raises(BlockingIOError):
            other.accept()
    machine.end(ExitInfo(reason=EndReason.STOPPED))

"""Connections lose nothing, share the loop, pause, and leave nothing behind; peers are pyzmq's."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from era_kernels.kernels import channel_connection, zmtp
from era_kernels.kernels.channel_connection import NOT_READING, ChannelConnection
from era_kernels.kernels.channels import KernelChannels
from era_kernels.kernels.wire_protocol import ConnectionInfo, Message
from era_kernels.sandbox.server import unix_sockets
from tests.kernels.scripted_kernel import connect_port
from tests.waiting import until


@asynccontextmanager
async def connected_pair(
    place: Path | None,
    kind: int = zmq.DEALER,
    socket_type: zmtp.SocketType = "DEALER",
    options: Mapping[int, int] | None = None,
) -> AsyncIterator[tuple[ChannelConnection, zmq.Socket[Any], list[bytes]]]:
    """A channel, the socket at its other end, and what the channel received.

    The other end is a unix socket in the directory `place`, or has a TCP port.
    """
    context: zmq.Context[Any] = zmq.Context()
    received: list[bytes] = []
    other = context.socket(kind)
    for option, value in {zmq.SNDHWM: 0, **(options or {})}.items():
        other.set(option, value)
    other.bind("tcp://127.0.0.1:*" if place is None else f"ipc://{place}/s")
    channel = ChannelConnection(
        socket_type, b"me", lambda parts: received.append(bytes(parts[-1])), _never
    )
    if place is None:
        port = int(other.get(zmq.LAST_ENDPOINT).rpartition(b":")[2].rstrip(b"\0"))
        channel.open(await connect_port(port))
    else:
        channel.open(unix_sockets.connect(place / "s"))
    try:
        yield channel, other, received
    finally:
        channel.close()
        other.close(linger=0)
        await asyncio.to_thread(context.term)


@pytest.fixture(params=["ipc", "tcp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where the other end is, see `connected_pair`."""
    return tmp_path if request.param == "ipc" else None


def _never(why: str) -> None:
    raise AssertionError(why)


async def test_all_that_arrives_is_received_in_order(place: Path | None) -> None:
    """A burst comes whole and in order, also while we send in between."""
    async with connected_pair(place) as (channel, other, received):
        for number in range(2000):
            other.send(str(number).encode())
            if number % 100 == 0:
                channel.send([b"x"])
                await asyncio.sleep(0)
        await until(lambda: len(received) >= 2000)
        assert received == [str(number).encode() for number in range(2000)]


async def test_a_router_knows_the_identity(place: Path | None) -> None:
    """A ROUTER, which is what kernels have, reads and answers by the identity that we gave."""
    async with connected_pair(place, zmq.ROUTER) as (channel, other, received):
        channel.send([b"", b"a" * 255, b"b" * 256, b"c" * 100_000, b"last"])
        parts = await asyncio.to_thread(other.recv_multipart)
        assert parts == [b"me", b"", b"a" * 255, b"b" * 256, b"c" * 100_000, b"last"]
        other.send_multipart([b"me", b"answer"])
        await until(lambda: len(received) >= 1)
        assert received == [b"answer"]


@pytest.mark.parametrize("kind", [zmq.PUB, zmq.XPUB])
async def test_a_publisher_is_subscribed_to(place: Path | None, kind: int) -> None:
    """A PUB or an XPUB sends all that it publishes; an XPUB sees the subscription."""
    async with connected_pair(place, kind, "SUB") as (_, other, received):
        if kind == zmq.XPUB:
            assert await asyncio.to_thread(other.recv) == b"\x01"
        async with asyncio.timeout(10):
            while not received:  # a PUB cannot be asked whether it has the subscription
                other.send_multipart([b"topic", b"x"])
                await asyncio.sleep(0.005)
        other.send(b"y" * 300)
        await until(lambda: received[-1] == b"y" * 300)


async def test_heartbeats_are_answered(place: Path | None) -> None:
    """A peer that asks whether we are there, and hangs up when not answered, stays."""
    beating = {zmq.HEARTBEAT_IVL: 20, zmq.HEARTBEAT_TIMEOUT: 500}

    async with connected_pair(place, options=beating) as (channel, other, received):
        await asyncio.sleep(0.7)
        await until(lambda: channel.received_bytes >= 300)
        other.send(b"still here")
        await until(lambda: len(received) >= 1)


async def test_a_long_message_is_sent_in_the_background(place: Path | None) -> None:
    """32 MiB to a peer that reads late: the call returns at once, and all of it arrives."""
    async with connected_pair(place) as (channel, other, _):
        text = os.urandom(1 << 20) * 32
        channel.send([b"a", text])
        await asyncio.sleep(0.05)
        assert await asyncio.to_thread(other.recv_multipart) == [b"a", text]


async def test_a_peer_that_reads_nothing_is_given_up(tmp_path: Path) -> None:
    """One message of any size may wait; when more is added to it, the peer counts as lost."""
    lost: list[str] = []
    context: zmq.Context[Any] = zmq.Context()
    other = context.socket(zmq.DEALER)
    other.set(zmq.RCVHWM, 1)
    other.bind(f"ipc://{tmp_path}/s")
    channel = ChannelConnection("DEALER", b"", lambda parts: None, lost.append)
    channel.open(unix_sockets.connect(tmp_path / "s"))
    async with asyncio.timeout(10):
        while not lost:
            channel.send([bytes(1 << 20)])
            await asyncio.sleep(0.01)
    assert lost == [NOT_READING]
    other.close(linger=0)
    await asyncio.to_thread(context.term)


async def test_pause_leaves_everything_for_later(place: Path | None) -> None:
    """A paused channel receives nothing and burns no time; resumed, it loses nothing."""
    async with connected_pair(place) as (channel, other, received):
        channel.pause()
        for number in range(100):
            other.send(str(number).encode())
        before = os.times()
        await asyncio.sleep(0.3)
        after = os.times()
        assert received == []
        assert channel.is_paused
        assert after.user + after.system - before.user - before.system < 0.2
        channel.resume()
        await until(lambda: len(received) >= 100)
        assert received[-1] == b"99"


async def test_receiver_may_pause_in_the_middle_of_a_burst(place: Path | None) -> None:
    """After a pause not one more message comes, whatever lies there already."""
    async with connected_pair(place) as (channel, other, received):
        channel._on_multipart = lambda parts: (received.append(parts[-1]), channel.pause())  # type: ignore
        for _ in range(10):
            other.send(b"x")
        for count in range(1, 11):
            await until(lambda count=count: len(received) >= count)
            await asyncio.sleep(0.02)
            assert len(received) == count
            channel.resume()


async def test_paused_decoding_waits_to_be_resumed(place: Path | None) -> None:
    """Pausing the decoding and pausing are independent: both must end before anything comes."""
    async with connected_pair(place) as (channel, other, received):
        channel._on_multipart = lambda parts: (
            received.append(parts[-1]),
            channel.pause_decoding(),
        )  # type: ignore
        for _ in range(3):
            other.send(b"x")
        await until(lambda: len(received) >= 1)
        channel.pause()
        channel.resume_decoding()
        await asyncio.sleep(0.02)
        assert (len(received), channel.is_paused) == (1, True)
        channel.pause_decoding()
        channel.resume()
        await asyncio.sleep(0.02)
        assert (len(received), channel.is_paused) == (1, True)
        channel.resume_decoding()
        await until(lambda: len(received) >= 2)


async def test_one_talker_leaves_the_loop_to_others(
    place: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket hands over a bounded amount per turn of the loop."""
    monkeypatch.setattr(channel_connection, "TURN_BYTES", 10_000)
    monkeypatch.setattr(channel_connection, "READ_BYTES", 10_000)

    async with connected_pair(place) as (channel, other, received):
        channel.pause()
        for _ in range(500):
            other.send(b"x" * 1000)
        await asyncio.sleep(0.1)
        channel.resume()
        turns = 0
        while len(received) < 500:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 50


async def test_one_talker_leaves_time_to_others(
    place: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a full turn a socket is not read for a moment, and then goes on by itself."""
    monkeypatch.setattr(channel_connection, "TURN_SECONDS", 0)
    monkeypatch.setattr(channel_connection, "SLICE_SECONDS", 0)

    async with connected_pair(place) as (channel, other, received):
        await asyncio.sleep(0.1)  # for the greeting
        monkeypatch.setattr(channel_connection, "BACKOFF_SECONDS", 0.5)
        channel.pause()
        for _ in range(3):
            other.send(b"x" * 1000)
        await asyncio.sleep(0.1)
        channel.resume()
        await asyncio.sleep(0.1)
        channel.send([b"this wakes nobody"])
        before = os.times()
        await asyncio.sleep(0.1)
        after = os.times()
        assert 0 < len(received) < 3
        assert after.user + after.system - before.user - before.system < 0.05
        await until(lambda: len(received) >= 3)


async def test_closed_channel_is_silent(place: Path | None) -> None:
    """Closing twice, and sending or resuming afterwards, does nothing."""
    async with connected_pair(place) as (channel, _, received):
        channel.close()
        channel.close()
        channel.send([b"x"])
        channel.resume()
        channel.resume_decoding()
        assert not channel.is_paused
        await asyncio.sleep(0.05)
        assert received == []


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raises the soft limit of open files, as the command does at its start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this host allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_many_kernels_take_no_threads(tmp_path: Path, many_descriptors: None) -> None:
    """Five hundred kernels that are waited for take no thread, and no descriptor yet."""

    def ignore(message: Message) -> None:
        raise AssertionError

    threads, files = _list_own("task"), _list_own("fd")
    opened = [
        KernelChannels(ConnectionInfo.new(tmp_path), *[ignore] * 4, _never) for _ in range(500)
    ]
    await asyncio.sleep(0.05)
    assert _list_own("task") <= threads  # one of an earlier test may have ended meanwhile
    assert len(_list_own("fd")) == len(files)
    for one in opened:
        one.close()


def _list_own(folder: str) -> set[str]:
    """Returns the numbers of this process's threads (`task`) or descriptors (`fd`)."""
    return {path.name for path in Path(f"/proc/self/{folder}").iterdir()}

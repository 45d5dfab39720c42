"""Sockets read by the loop: greedy, fair, pausable, and gone when closed."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from era_kernels.kernels import channels
from era_kernels.kernels.channels import Channel, Channels, make_context
from era_kernels.kernels.wire import Connection, Message


@asynccontextmanager
async def paired(directory: Path) -> AsyncIterator[tuple[Channel, zmq.Socket[Any], list[bytes]]]:
    """A channel, the socket at its other end, and what the channel received."""
    context, received = make_context(), []
    other = context.socket(zmq.DEALER)
    other.set(zmq.SNDHWM, 0)
    other.bind(f"ipc://{directory}/s")
    socket = context.socket(zmq.DEALER)
    socket.connect(f"ipc://{directory}/s")
    channel = Channel(socket, lambda parts: received.append(parts[-1]))
    try:
        yield channel, other, received
    finally:
        channel.close()
        other.close(linger=0)
        await asyncio.to_thread(context.term)


async def until(received: list[bytes], count: int) -> None:
    async with asyncio.timeout(10):
        while len(received) < count:
            await asyncio.sleep(0.005)


def test_all_that_arrives_is_received_in_order(tmp_path: Path) -> None:
    """A burst comes whole and in order, also while we send in between."""

    async def body() -> None:
        async with paired(tmp_path) as (channel, other, received):
            for number in range(2000):
                other.send(str(number).encode())
                if number % 100 == 0:
                    channel.send([b"x"])
                    await asyncio.sleep(0)
            await until(received, 2000)
            assert received == [str(number).encode() for number in range(2000)]

    asyncio.run(body())


def test_sending_does_not_hide_what_arrives(tmp_path: Path) -> None:
    """Many round trips: no answer waits for the next event after its edge was swallowed."""

    async def body() -> None:
        async with paired(tmp_path) as (channel, other, received):
            for number in range(500):
                channel.send([b"ping"])
                await asyncio.to_thread(other.recv)
                other.send(b"pong")
                channel.send([b"more"])
                await until(received, number + 1)
                await asyncio.to_thread(other.recv)

    asyncio.run(body())


def test_pause_leaves_everything_for_later(tmp_path: Path) -> None:
    """A paused channel receives nothing and burns no time; resumed, it loses nothing."""

    async def body() -> None:
        async with paired(tmp_path) as (channel, other, received):
            channel.pause()
            for number in range(100):
                other.send(str(number).encode())
            before = os.times()
            await asyncio.sleep(0.3)
            after = os.times()
            assert received == []
            assert channel.paused
            assert after.user + after.system - before.user - before.system < 0.2
            channel.resume()
            await until(received, 100)
            assert received[-1] == b"99"

    asyncio.run(body())


def test_receiver_may_pause_in_the_middle_of_a_burst(tmp_path: Path) -> None:
    """After a pause not one more message comes, whatever lies there already."""

    async def body() -> None:
        async with paired(tmp_path) as (channel, other, received):
            channel._receive = lambda parts: (received.append(parts[-1]), channel.pause())  # type: ignore
            for _ in range(10):
                other.send(b"x")
            for count in range(1, 11):
                await until(received, count)
                await asyncio.sleep(0.02)
                assert len(received) == count
                channel.resume()

    asyncio.run(body())


def test_one_talker_leaves_the_loop_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket hands over a bounded amount per turn of the loop."""
    monkeypatch.setattr(channels, "TURN_BYTES", 10_000)

    async def body() -> None:
        async with paired(tmp_path) as (channel, other, received):
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

    asyncio.run(body())


def test_one_talker_leaves_time_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full turn a socket rests, whatever else is there, and then goes on by itself."""
    monkeypatch.setattr(channels, "TURN_BYTES", 100_000)
    monkeypatch.setattr(channels, "BREATH", 0.5)

    async def body() -> None:
        async with paired(tmp_path) as (channel, other, received):
            channel.pause()
            for _ in range(16):
                other.send(b"x" * 1000)
            await asyncio.sleep(0.1)
            channel.resume()
            await asyncio.sleep(0.1)
            channel.send([b"this wakes nobody"])
            await asyncio.sleep(0.1)
            assert 0 < len(received) < 16
            await until(received, 16)

    asyncio.run(body())


def test_closed_channel_is_silent(tmp_path: Path) -> None:
    """Closing twice, and sending or resuming afterwards, is nothing."""

    async def body() -> None:
        async with paired(tmp_path) as (channel, _, received):
            channel.close()
            channel.close()
            channel.send([b"x"])
            channel.resume()
            assert not channel.paused
            await asyncio.sleep(0.05)
            assert received == []

    asyncio.run(body())


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """What the command does at its start: the soft limit of open files is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this host allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_kernels_share_a_context(tmp_path: Path, many_descriptors: None) -> None:
    """Five hundred kernels have their sockets at once, on two threads of libzmq."""

    def ignore(message: Message) -> None:
        raise AssertionError

    def threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    async def body() -> None:
        context, before = make_context(), threads()
        opened = [Channels(context, Connection.new(tmp_path), ignore, ignore) for _ in range(500)]
        assert threads() <= before + 2
        for one in opened:
            one.close()
        await asyncio.to_thread(context.term)

    asyncio.run(body())

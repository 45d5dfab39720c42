"""The channel: sends never block, replies find their requests, descriptors are let go."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from era_kernels.sandbox.init import fd_messages
from era_kernels.sandbox.server.control_channel import ChannelClosed, ControlChannel
from tests.conftest import entered
from tests.sandbox.sandboxes import count_descriptors


class Peer:
    """A channel, the socket at its other end, and the messages that the channel delivered."""

    def __init__(self) -> None:
        here, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.messages: list[dict[str, Any]] = []
        self.ends = 0
        self.channel = ControlChannel(here, self.messages.append, self._count)

    def _count(self) -> None:
        self.ends += 1


@asynccontextmanager
async def with_peer() -> AsyncIterator[Peer]:
    """Run the body of a test with a channel; no descriptor may be left after it."""
    before = count_descriptors(os.getpid())
    peer = Peer()
    yield peer
    peer.channel.close()
    peer.socket.close()
    assert count_descriptors(os.getpid()) == before


@pytest.fixture
def peer(io_loop: IOLoop) -> Iterator[Peer]:
    with entered(io_loop, with_peer()) as peer:
        yield peer


async def run_loop_briefly() -> None:
    """Let the loop serve its sockets."""
    for _ in range(5):
        await asyncio.sleep(0.001)


async def test_sends_do_not_wait_for_a_slow_peer(peer: Peer) -> None:
    """A thousand messages with descriptors are taken at once, and arrive in order later."""
    for number in range(1000):
        extra = os.open(os.devnull, os.O_RDONLY)
        peer.channel.send({"n": number, "x": "x" * 10_000}, [extra])
    seen = []
    peer.socket.settimeout(5)
    while len(seen) < 1000:
        received = await asyncio.to_thread(fd_messages.receive, peer.socket)
        assert received is not None
        seen.append(received[0]["n"])
        os.close(received[1][0])
    assert seen == list(range(1000))


async def test_what_a_dead_peer_never_took_is_let_go(peer: Peer) -> None:
    """Waiting descriptors are closed with the channel, and with a peer that leaves."""
    for _ in range(500):
        peer.channel.send({"x": "x" * 10_000}, [os.open(os.devnull, os.O_RDONLY)])
    peer.socket.close()
    await run_loop_briefly()
    assert peer.ends == 1


async def test_replies_find_their_requests(peer: Peer) -> None:
    """Replies may come in any order and among other messages."""
    first = asyncio.ensure_future(peer.channel.request({"op": "a"}))
    second = asyncio.ensure_future(peer.channel.request({"op": "b"}))
    await run_loop_briefly()
    asked = [fd_messages.receive(peer.socket) for _ in range(2)]
    ids = [message[0]["id"] for message in asked if message is not None]
    fd_messages.send(peer.socket, {"news": 1})
    for number in reversed(ids):
        fd_messages.send(peer.socket, {"id": number, "answer": number * 10})
    assert (await first)["answer"] == ids[0] * 10
    assert (await second)["answer"] == ids[1] * 10
    assert peer.messages == [{"news": 1}]


async def test_a_cancelled_request_harms_nobody(peer: Peer) -> None:
    """A reply that nobody waits for any more is just another message."""
    request = asyncio.ensure_future(peer.channel.request({"op": "a"}))
    await run_loop_briefly()
    request.cancel()
    await asyncio.wait({request})
    fd_messages.send(peer.socket, {"id": 1})
    await run_loop_briefly()
    assert peer.messages == [{"id": 1}]
    assert peer.ends == 0


async def test_the_end_fails_what_waits(peer: Peer) -> None:
    """When the peer leaves, requests raise, `on_end` is called once, and sends raise."""
    request = asyncio.ensure_future(peer.channel.request({"op": "a"}))
    await run_loop_briefly()
    peer.socket.close()
    with pytest.raises(ChannelClosed):
        await request
    assert peer.ends == 1
    with pytest.raises(ChannelClosed):
        peer.channel.send({}, [os.open(os.devnull, os.O_RDONLY)])
    peer.channel.close_write()


async def test_finishing_still_listens(peer: Peer) -> None:
    """After finish the peer sees the end, and what it says is still heard."""
    peer.channel.close_write()
    assert fd_messages.receive(peer.socket) is None
    fd_messages.send(peer.socket, {"last": "words"})
    peer.socket.close()
    await run_loop_briefly()
    assert peer.messages == [{"last": "words"}]
    assert peer.ends == 1


async def test_nothing_that_comes_uninvited_is_kept(peer: Peer) -> None:
    """Descriptors that a peer sends along are closed."""
    fd_messages.send(peer.socket, {"news": 1}, (0,))
    await run_loop_briefly()
    assert peer.messages == [{"news": 1}]

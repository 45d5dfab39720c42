"""Sockets that share a limit: what each may have, and when those that wait go on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from era_kernels.concurrency import accepting
from era_kernels.concurrency.accepting import ConnectionLimit, LimitedAcceptor


class Listening:
    """A socket whose connections are kept."""

    def __init__(self, limit: ConnectionLimit, stack: ExitStack) -> None:
        self.accepted: list[socket.socket] = []
        self._stack = stack
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._address = listener.getsockname()
        self.acceptor = LimitedAcceptor(listener, self._keep, limit)

    def connect(self) -> None:
        self._stack.enter_context(socket.create_connection(self._address))

    def _keep(self, connection: socket.socket, _: Any) -> None:
        self.accepted.append(self._stack.enter_context(connection))
        self.acceptor.acquire()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_sockets_share_a_limit(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """One each is always accepted; a connection that ends lets another socket's waiting one in."""
    monkeypatch.setattr(accepting, "LIMITED_REST", 1000.0)
    limit = ConnectionLimit(2)
    first, second = Listening(limit, stack), Listening(limit, stack)
    for one in (first, first, second, second):
        one.connect()
        await asyncio.sleep(0.05)
    assert [len(one.accepted) for one in (first, second)] == [2, 1]
    first.acceptor.release()
    first.acceptor.release()
    await asyncio.sleep(0.05)
    assert [len(one.accepted) for one in (first, second)] == [2, 2]
    for one in (first, second, second):
        one.acceptor.close()
    assert not limit.acceptors


async def test_rests_without_descriptors(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Linux refuses is tried again after a rest, and not all the time."""
    monkeypatch.setattr(accepting, "LIMITED_REST", 0.1)
    listening = Listening(ConnectionLimit(2), stack)
    refusals = 0

    def refuse(_: socket.socket) -> Any:
        nonlocal refusals
        refusals += 1
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", refuse)
        listening.connect()
        await asyncio.sleep(0.25)
    assert 1 <= refusals <= 4
    await asyncio.sleep(0.2)
    assert len(listening.accepted) == 1
    listening.acceptor.close()

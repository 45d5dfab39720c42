"""The wire: messages of any size, with descriptors, and a clear end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from era_kernels.sandbox.init import fd_messages
from tests.sandbox.sandboxes import count_descriptors

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a control socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        yield here, there


@pytest.mark.parametrize(
    "size", [0, 1, fd_messages.MAX_INLINE_BYTES - 9, fd_messages.MAX_INLINE_BYTES, 5_000_000]
)
def test_messages_of_any_size_arrive(pair: Pair, size: int) -> None:
    """Small messages are datagrams, big ones travel in a memfd, and nobody sees a difference."""
    before = count_descriptors(os.getpid())
    fd_messages.send(pair[0], {"a": "x" * size})
    assert fd_messages.receive(pair[1]) == ({"a": "x" * size}, [])
    assert count_descriptors(os.getpid()) == before


@pytest.mark.parametrize("size", [1, 100_000])
def test_descriptors_arrive_with_their_message(pair: Pair, size: int) -> None:
    """The receiver gets copies in order, which no executed program inherits."""
    with open(os.devnull) as null, open("/etc/passwd") as passwd:  # noqa: PTH123 - as descriptors
        fd_messages.send(pair[0], {"a": "x" * size}, (null.fileno(), passwd.fileno()))
        received = fd_messages.receive(pair[1])
        assert received is not None
        _, copies = received
        assert os.path.sameopenfile(copies[0], null.fileno())
        assert os.path.sameopenfile(copies[1], passwd.fileno())
    assert not any(os.get_inheritable(copy) for copy in copies)
    for copy in copies:
        os.close(copy)


def test_text_that_is_no_unicode_survives(pair: Pair) -> None:
    """Names of files that are not UTF-8 come through as Python holds them."""
    fd_messages.send(pair[0], {"a": "\udcff ä \x1f"})
    assert fd_messages.receive(pair[1]) == ({"a": "\udcff ä \x1f"}, [])


def test_the_end_is_told(pair: Pair) -> None:
    """A peer that left is the end, after all that it said, also when it had not read all."""
    fd_messages.send(pair[0], {"a": 1})
    fd_messages.send(pair[1], {"b": 2})
    pair[1].close()
    assert fd_messages.receive(pair[0]) == ({"b": 2}, [])
    assert fd_messages.receive(pair[0]) is None
    assert fd_messages.receive(pair[0]) is None
    with pytest.raises(BrokenPipeError):
        fd_messages.send(pair[0], {"a": 1})


def test_a_message_has_a_limit(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    """What is larger than any sane command is refused, with no descriptor left open."""
    monkeypatch.setattr(fd_messages, "MAX_MESSAGE_BYTES", 100_000)
    before = count_descriptors(os.getpid())
    with pytest.raises(fd_messages.MessageTooLarge):
        fd_messages.send(pair[0], {"a": "x" * 100_000})
    assert count_descriptors(os.getpid()) == before

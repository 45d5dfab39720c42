"""Places of connections: known clients keep theirs, strangers give way, the slowest first."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from era_kernels.web import connection_limit
from era_kernels.web.connection_limit import Connections


class FakeConnection:
    """A connection whose client is at the other end of a pair of sockets."""

    def __init__(self) -> None:
        self.socket, self.client = socket.socketpair()
        self.socket.setblocking(False)
        self.has_given_up = False

    def give_up(self) -> None:
        self.has_given_up = True

    def close(self) -> None:
        self.socket.close()
        self.client.close()


@pytest.fixture
def clients() -> Iterator[list[FakeConnection]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(FakeConnection())) for _ in range(20)]


def come(places: Connections, clients: list[FakeConnection]) -> list[bool]:
    """Lets clients come one after the other; returns which of them got a place."""
    taken = []
    for client in clients:
        taken.append(places.make_room())
        if taken[-1]:
            places.add(client)
    return taken


def test_a_burst_pushes_nobody_out_who_is_just_sending(clients: list[FakeConnection]) -> None:
    """The head of a request that has not been read yet is not thrown away for newer strangers."""
    places = Connections(8)
    sending, silent, newer = clients[:3], clients[3:8], clients[8:16]
    for client in sending:
        client.client.sendall(b"GET / HTTP/1.1\r\n")
    assert all(come(places, [*sending, *silent, *newer]))
    assert not any(client.has_given_up for client in sending)
    assert all(client.has_given_up for client in silent)


def test_strangers_are_refused_while_all_others_are_just_sending(
    clients: list[FakeConnection],
) -> None:
    """Nobody has to give way then: whoever comes last is told to try again."""
    places = Connections(8)
    for client in clients:
        client.client.sendall(b"GET / HTTP/1.1\r\n")
    assert come(places, clients) == [True] * 8 + [False] * 12
    assert not any(client.has_given_up for client in clients)


def test_who_sends_for_long_gives_way(
    clients: list[FakeConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unread bytes keep a place for some seconds only."""
    monkeypatch.setattr(connection_limit, "UNREAD_SECONDS", -1)
    places = Connections(8)
    for client in clients:
        client.client.sendall(b"GET / HTTP/1.1\r\n")
    assert all(come(places, clients))
    # Some places are never theirs.
    assert [client.has_given_up for client in clients] == [True] * 14 + [False] * 6


def test_who_has_not_been_read_for_a_second_keeps_its_place(
    clients: list[FakeConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is slow, not the client; one that has sent nothing gives way."""
    monkeypatch.setattr(connection_limit, "NEW_SECONDS", -1)
    places = Connections(8)
    sending, silent = clients[:5], clients[5:]
    for client in sending:
        client.client.sendall(b"GET / HTTP/1.1\r\n")
    assert all(come(places, [*sending, *silent]))
    assert not any(client.has_given_up for client in sending)
    assert [client.has_given_up for client in silent] == [True] * 14 + [False]


def test_known_clients_keep_their_places(clients: list[FakeConnection]) -> None:
    """However slow they are, and however many others come; when all are known, nobody comes."""
    places = Connections(8)
    known, others = clients[:4], clients[4:]
    assert all(come(places, known))
    for client in known:
        places.trust(client)
    assert all(come(places, others))
    assert not any(client.has_given_up for client in known)
    for client in others[-4:]:
        places.trust(client)
    assert not places.make_room()


def test_who_was_trusted_for_a_request_gives_way_again(
    clients: list[FakeConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest keeps its place as long as its request lasts, and not behind it."""
    monkeypatch.setattr(connection_limit, "NEW_SECONDS", -1)
    places = Connections(8)
    guests, others = clients[:6], clients[6:16]
    come(places, guests)
    for guest in guests:
        places.trust(guest)
    assert all(come(places, others))
    assert not any(guest.has_given_up for guest in guests)
    for guest in guests:
        places.distrust(guest)
    assert all(come(places, clients[16:]))
    places.discard(guests[0])
    places.distrust(guests[0])
    assert guests[0] not in places.all

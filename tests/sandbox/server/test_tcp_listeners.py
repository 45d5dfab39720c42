"""The ports on which processes listen are found in /proc, with their addresses and names."""

from __future__ import annotations

import os
import socket
from collections import Counter

import pytest

from era_kernels.models import ListeningPort
from era_kernels.sandbox.server import tcp_listeners
from tests.sandbox.server.test_tcp_owners import bind, other_listener


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_addresses(address: str) -> None:
    """A port is listed from the moment when its socket listens, with the address as it is bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with bind(family, address) as end:
        port = end.getsockname()[1]
        assert port not in {one.port for one in list_own()}
        end.listen()
        assert ListeningPort(port, address, own_name()) in list_own()


def test_others_are_not_listed() -> None:
    """Where the network is the host's, only what processes of the init have is listed."""
    with other_listener() as (pid, port):
        assert port in {one.port for one in list_own()}  # a child
        assert {one.port for one in tcp_listeners.list_ports(pid, is_own_network=False)} == {port}
        with bind(socket.AF_INET, "127.0.0.1") as end:
            end.listen()
            own = tcp_listeners.list_ports(pid, is_own_network=False)
            assert end.getsockname()[1] not in {one.port for one in own}
            everybody = tcp_listeners.list_ports(pid, is_own_network=True)
            unknown = ListeningPort(end.getsockname()[1], "127.0.0.1", None)
            assert unknown in everybody


def test_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that listens on very many ports makes no endless list; the lowest are listed."""
    monkeypatch.setattr(tcp_listeners, "MAX_PORTS", 3)
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    ports = [one.port for one in list_own()]
    for end in ends:
        end.close()
    assert len(ports) == 3 and ports == sorted(ports)
    assert max(Counter(ports).values()) == 1


def list_own() -> list[ListeningPort]:
    return tcp_listeners.list_ports(os.getpid(), is_own_network=False)


def own_name() -> str:
    with open("/proc/self/comm") as file:  # noqa: PTH123
        return file.read().strip()

"""Which addresses sessions may reach."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from era_kernels.egress.addresses import AddressPolicy, is_public
from era_kernels.egress.local_destinations import leads_to_others

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255",
    "192.169.0.0", "223.255.255.255", "168.63.129.17",
    "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450::1", "2001:200::1",
]  # fmt: skip
PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200",
    "100.127.255.255", "127.0.0.1", "127.255.255.255", "169.254.169.254", "169.254.0.1",
    "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.0.1", "192.88.99.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
    "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:10.0.0.1",
    "64:ff9b::a00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:1::1",
    "2001:db8::1", "2002:a00:1::1", "2002:7f00:1::", "3fff::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    """Addresses of the public internet may be reached where a route leads there."""
    address = ipaddress.ip_address(text)
    assert is_public(address)
    assert AddressPolicy(is_elsewhere=lambda _: True).allows(address)


@pytest.mark.parametrize("text", PRIVATE)
def test_private(text: str) -> None:
    """Nobody reaches what is near: private, link-local, metadata, multicast, IPv4 in IPv6."""
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    assert not AddressPolicy(is_elsewhere=lambda _: True).allows(address)


def test_own_addresses() -> None:
    """A public address that is this host's is refused."""
    assert not AddressPolicy(is_elsewhere=lambda _: False).allows(ipaddress.ip_address("1.1.1.1"))


def test_exceptions() -> None:
    """The operator's exceptions hold for those networks and no others."""
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/64"))
    policy = AddressPolicy(networks, is_elsewhere=lambda _: False)
    for text in ("10.1.2.3", "fd00::5"):
        assert policy.allows(ipaddress.ip_address(text))
    for text in ("10.2.0.1", "fd00:0:0:1::1", "::ffff:10.1.2.3", "127.0.0.1"):
        assert not policy.allows(ipaddress.ip_address(text))


def test_linux_knows_its_own_addresses() -> None:
    """Every address of the loopback leads to this host, as do those of its interfaces."""
    own = ["127.0.0.1", "127.8.9.1", "255.255.255.255"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            own.append(probe.getsockname()[0])
        except OSError:
            pass  # no route leads out of this host
    for text in own:
        assert not leads_to_others(ipaddress.ip_address(text)), text

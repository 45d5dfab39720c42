"""Which packets of sessions may leave: rules from the registries, the host and the operator."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from era_kernels.egress.addresses import AddressPolicy, IPNetwork
from era_kernels.egress.host_network import HostNetwork, make_rules
from era_kernels.sandbox.init.pasta_keeper import LINKS
from era_kernels.sandbox.linux.tap import wanted_routes

HOST = [ipaddress.ip_network("45.33.32.5/32"), ipaddress.ip_network("2606:4700:9::5/128")]
EXCEPTIONS = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd77::/64")]
ADDRESSES = (
    "93.184.215.14", "2606:2800:21f::14", "45.33.32.5", "45.33.32.6", "2606:4700:9::5", "10.1.2.3",
    "10.2.2.3", "fd77::3", "fd78::3", "127.0.0.1", "::1", "0.0.0.0", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "168.63.129.16", "172.16.0.1", "172.32.0.1", "192.0.0.192",
    "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.51.100.3", "203.0.113.1", "224.0.0.1",
    "255.255.255.255", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "2001::1",
    "2001:db8::1", "3fff::1", "fe80::1", "fec0::1", "ff02::1", "::",
)  # fmt: skip


def _is_allowed(address: str, rules: list[tuple[str, int, bool]]) -> bool:
    """What the filter does: the first rule that matches decides, and none is a refusal."""
    one = ipaddress.ip_address(address)
    for text, length, allows in rules:
        if one in ipaddress.ip_network(f"{text}/{length}"):
            return allows
    return False


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("exceptions", [(), EXCEPTIONS], ids=["none", "some"])
def test_packets_may_go_where_the_proxy_may(address: str, exceptions: list[IPNetwork]) -> None:
    """The rules and the proxy's policy agree about every kind of address."""
    is_elsewhere = lambda one: not any(one in network for network in HOST)  # noqa: E731
    policy = AddressPolicy(exceptions, is_elsewhere)
    rules = list(make_rules(exceptions, HOST))
    assert _is_allowed(address, rules) is policy.allows(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ADDRESSES)
def test_routes_say_what_the_filter_says(address: str) -> None:
    """The narrowest route to an address refuses where the filter does, and only there."""
    exceptions = [*EXCEPTIONS, ipaddress.ip_network("192.0.0.0/15")]  # wider than what is refused
    rules = list(make_rules(exceptions, HOST))
    one = ipaddress.ip_address(address)
    found = [
        (network.prefixlen, allows)
        for _, packed, length, allows in wanted_routes(LINKS, rules)
        if one in (network := ipaddress.ip_network((packed, length)))
    ]
    is_resolver = address in {link.resolver for link in LINKS}
    assert max(found, default=(0, False))[1] is (is_resolver or _is_allowed(address, rules))


def test_the_host_has_addresses_of_its_own() -> None:
    """Every address that Linux has as its own is refused; its loopback is within 127.0.0.0/8."""
    rules = HostNetwork().find_rules()
    own = {(str(address), 128) for address in ("::1",)}
    refused = {(address, length) for address, length, allows in rules.rules if not allows}
    assert own <= refused
    assert set(rules.families) <= {socket.AF_INET, socket.AF_INET6}

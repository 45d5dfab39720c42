"""Decides which addresses sessions may reach: those of the public internet, and of nobody near."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from era_kernels.egress.local_destinations import IPAddress, leads_to_others

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# The registries of special addresses (IANA), and what clouds use for their metadata.
REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of a carrier; metadata of Alibaba's cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # the host agent of Azure, a public address by its number
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols; metadata of Oracle's cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# All that is public lies here. So these are refused, too: loopback, link-local, unique local
# addresses, multicast, and IPv4 in IPv6 (mapped, compatible, translated by NAT64).
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocols, among them Teredo, which holds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
)


class AddressPolicy:
    """Tells which addresses may be reached.

    The operator's `exceptions` may, whatever else holds. `is_elsewhere` tells whether an address
    is another host's, and raises OSError where no route leads there.
    """

    def __init__(
        self,
        exceptions: Sequence[IPNetwork] = (),
        is_elsewhere: Callable[[IPAddress], bool] = leads_to_others,
    ) -> None:
        self._exceptions = tuple(exceptions)
        self._is_elsewhere = is_elsewhere

    def allows(self, address: IPAddress) -> bool:
        """Returns whether sessions may reach an address. Raises OSError: no route leads there."""
        if any(address in network for network in self._exceptions):
            return True
        return is_public(address) and self._is_elsewhere(address)


def is_public(address: IPAddress) -> bool:
    """Returns whether an address is one of the public internet, by its number alone.

    >>> is_public(ipaddress.ip_address("169.254.169.254"))
    False
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in REFUSED_V4)
    return address in PUBLIC_V6 and not any(address in network for network in REFUSED_V6)

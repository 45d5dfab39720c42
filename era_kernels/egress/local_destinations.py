"""Asks Linux where it would send packets: rtnetlink(7)."""

from __future__ import annotations

import ipaddress
import socket
import struct

from era_kernels.netlink import NETLINK_ROUTE, Netlink, attribute

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_ROUTE = struct.Struct("=8BI")  # rtmsg: family, length of the destination, …, type, flags
_TYPE_INDEX = 7  # of the route's type in a rtmsg
_RTM_GETROUTE, _RTA_DST, _RTN_UNICAST = 26, 1, 1


def leads_to_others(address: IPAddress) -> bool:
    """Returns whether packets to an address would leave this host for one other host.

    False for every address of the host itself, on whatever interface, and for broadcast. Takes
    some microseconds and waits for nobody. Raises OSError where no route leads there.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    route = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    with Netlink(NETLINK_ROUTE) as netlink:
        found = netlink.ask(_RTM_GETROUTE, route + attribute(_RTA_DST, address.packed))
    return bool(_ROUTE.unpack_from(found)[_TYPE_INDEX] == _RTN_UNICAST)

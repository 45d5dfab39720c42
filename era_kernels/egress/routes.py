"""Asks Linux where it would send packets: rtnetlink(7)."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, length of the destination, …, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_ERROR = struct.Struct("=i")  # nlmsgerr: a negative errno
_TYPE_INDEX = 7  # of the route's type in a rtmsg
_RTM_GETROUTE, _NLM_F_REQUEST, _NLMSG_ERROR, _RTA_DST, _RTN_UNICAST = 26, 1, 2, 1, 1
_NETLINK_ROUTE = 0
_MAX_REPLY = 8192


def leads_to_others(address: IPAddress) -> bool:
    """Returns whether packets to an address would leave this host for one other host.

    False for every address of the host itself, on whatever interface, and for broadcast. Takes
    some microseconds and waits for nobody. Raises OSError where no route leads there.
    """
    reply = _ask(_request(address))
    _, kind, *_ = _HEADER.unpack_from(reply)
    if kind == _NLMSG_ERROR:
        code = -_ERROR.unpack_from(reply, _HEADER.size)[0]
        raise OSError(code, os.strerror(code))
    route = _ROUTE.unpack_from(reply, _HEADER.size)
    return bool(route[_TYPE_INDEX] == _RTN_UNICAST)


def _request(address: IPAddress) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    route = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    destination = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    length = _HEADER.size + len(route) + len(destination)
    return _HEADER.pack(length, _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + route + destination


def _ask(request: bytes) -> bytes:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE) as netlink:
        netlink.sendto(request, (0, 0))  # Linux answers before this returns
        return netlink.recv(_MAX_REPLY)

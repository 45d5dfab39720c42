"""Makes a tap device in this process's network namespace, with its address and its routes."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from era_kernels.netlink import (
    NETLINK_ROUTE,
    NETLINK_SOCK_DIAG,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    nested,
)
from era_kernels.sandbox.linux.nftables import Rule, family_of

TUN_DEVICE = "/dev/net/tun"
NAME = "eth0"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x2, 0x1000
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_MAC, _GATEWAY_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
_MTU = 65520  # what pasta takes; a frame holds as much as IPv4 can
_NEW_LINK, _DELETE_LINK, _NEW_ADDRESS, _NEW_NEIGHBOUR = 16, 17, 20, 28
_NEW_ROUTE, _DELETE_ROUTE = 24, 25
_RTMGRP_LINK = 1
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ROUTE = struct.Struct("=8BI")  # family, lengths of destination and source, tos, table, …
_MAIN_TABLE, _PROTOCOL, _UNIVERSE = 254, 4, 0  # protocol: a static route, which Linux leaves alone
_UNICAST, _PROHIBIT = 1, 8
_ONLINK = 4  # the gateway is taken for a neighbour, whatever the routes say
_NODAD, _PERMANENT = 0x02, 0x80
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_DIAG_REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states; then the id
_ID_AT, _ID_SIZE = 4, 48  # of inet_diag_sockid in inet_diag_msg
_LISTEN, _TIME_WAIT = 10, 6
_ALL_STATES = 0xFFF & ~(1 << _LISTEN | 1 << _TIME_WAIT)


# The family, address and length of the prefix of a network, and whether packets may go there.
Route = tuple[int, bytes, int, bool]


@dataclass(frozen=True, slots=True)
class Link:
    """One address of the device, and the gateway behind it, which answers to nobody itself."""

    address: str
    gateway: str
    resolver: str  # where names are looked up


def make_tap() -> int:
    """Makes the device, which stays until it is deleted; returns its index. Raises OSError."""
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", NAME.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)
    return socket.if_nametoindex(NAME)


def set_up(index: int, links: Sequence[Link]) -> None:
    """Brings the device up with its addresses, and a permanent neighbour as the gateway of each.

    No other neighbour is ever asked for: their number is one for the whole host. Raises OSError.
    """
    no_own_addresses = nested(26, nested(socket.AF_INET6, attribute(8, b"\1")))
    link = _IFINFO.pack(0, 0, index, _IFF_UP, _IFF_UP)
    link += attribute(1, _MAC) + attribute(4, struct.pack("=I", _MTU)) + no_own_addresses
    with Netlink(NETLINK_ROUTE) as netlink:
        netlink.call(_NEW_LINK, link)
        for one in links:
            family, packed = family_of(one.address), _packed(one.address)
            head = struct.pack("=BBBBI", family, 8 * len(packed), _NODAD, 0, index)
            address = head + attribute(1, packed) + attribute(2, packed)
            netlink.call(_NEW_ADDRESS, address, NLM_F_CREATE)
            head = struct.pack("=BxxxiHBB", family, index, _PERMANENT, 0, 0)
            gateway = attribute(1, _packed(one.gateway)) + attribute(2, _GATEWAY_MAC)
            netlink.call(_NEW_NEIGHBOUR, head + gateway, NLM_F_CREATE | NLM_F_REPLACE)


def wanted_routes(links: Sequence[Link], rules: Sequence[Rule]) -> frozenset[Route]:
    """Returns the routes that the rules mean, so that a refusal is told at once.

    Of two networks the narrower one decides, as for all routes; of two equal ones the first.
    """
    families = {family_of(link.address) for link in links}
    wanted = {_network(link.resolver, 8 * len(_packed(link.resolver))): True for link in links}
    for address, length, allows in rules:
        if family_of(address) in families:
            wanted.setdefault(_network(address, length), allows)
    return frozenset((*network, allows) for network, allows in wanted.items())


def change_routes(
    index: int, links: Sequence[Link], old: frozenset[Route], new: frozenset[Route]
) -> None:
    """Changes the routes from `old` ones, which were made here, to `new` ones. Raises OSError."""
    gateways = {family_of(link.address): _packed(link.gateway) for link in links}
    with Netlink(NETLINK_ROUTE) as netlink:
        for kind, routes in ((_DELETE_ROUTE, old - new), (_NEW_ROUTE, new - old)):
            for family, packed, length, allows in routes:
                body = attribute(1, packed)
                if allows:
                    gateway = gateways[socket.AddressFamily(family)]
                    body += attribute(5, gateway) + attribute(4, struct.pack("=i", index))
                route_type = _UNICAST if allows else _PROHIBIT
                head = (family, length, 0, 0, _MAIN_TABLE, _PROTOCOL, _UNIVERSE, route_type)
                route = _ROUTE.pack(*head, _ONLINK if allows else 0)
                flags = NLM_F_CREATE | NLM_F_REPLACE if kind == _NEW_ROUTE else 0
                netlink.call(kind, route + body, flags)


def watch_links() -> Netlink:
    """Returns a socket that gets a message whenever a device changes. Raises OSError."""
    return Netlink(NETLINK_ROUTE, _RTMGRP_LINK)


def is_attached(index: int, body: bytes) -> bool:
    """Returns whether a message about a device says that a process serves this tap."""
    _, _, changed, flags, _ = _IFINFO.unpack_from(body)
    return bool(changed == index and flags & _IFF_LOWER_UP)


def remove() -> None:
    """Deletes the device, if there is one, and with it its addresses, routes and connections."""
    with suppress(OSError):
        index = socket.if_nametoindex(NAME)
        with Netlink(NETLINK_ROUTE) as netlink:
            netlink.call(_DELETE_LINK, _IFINFO.pack(0, 0, index, 0, 0))
        destroy_connections()  # else nothing answers them, and they run out


def destroy_connections() -> None:
    """Ends all TCP connections that lead out of the namespace: ECONNABORTED. Raises OSError."""
    with Netlink(NETLINK_SOCK_DIAG) as netlink, Netlink(NETLINK_SOCK_DIAG) as destroyer:
        for family in (socket.AF_INET, socket.AF_INET6):
            head = _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES)
            found = [body for _, body in netlink.dump(_SOCK_DIAG_BY_FAMILY, head + bytes(_ID_SIZE))]
            for body in found:
                identity = body[_ID_AT : _ID_AT + _ID_SIZE]
                if not _is_local(family, identity):
                    _destroy(destroyer, head + identity)


def _destroy(netlink: Netlink, request: bytes) -> None:
    with suppress(FileNotFoundError):  # it has ended by itself
        netlink.call(_SOCK_DESTROY, request)


def _is_local(family: int, identity: bytes) -> bool:
    """Returns whether a connection leads to the loopback: inet_diag_sockid, its destination."""
    destination = identity[20:36]
    if family == socket.AF_INET:
        return destination[0] == 127
    mapped = destination[:12] == bytes(10) + b"\xff\xff" and destination[12] == 127
    return mapped or destination == bytes(15) + b"\1"


def _network(address: str, length: int) -> tuple[int, bytes, int]:
    packed = _packed(address)
    size = 8 * len(packed)
    mask = (1 << size) - (1 << size - length)
    return family_of(address), (int.from_bytes(packed) & mask).to_bytes(len(packed)), length


def _packed(address: str) -> bytes:
    return socket.inet_pton(family_of(address), address)

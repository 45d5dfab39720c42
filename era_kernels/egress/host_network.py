"""Says what packets of sessions may reach, and follows the addresses of the host."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from era_kernels.egress.addresses import PUBLIC_V6, REFUSED_V4, REFUSED_V6, IPNetwork
from era_kernels.models.internet import OutboundRules
from era_kernels.netlink import NETLINK_ROUTE, Netlink, read_attributes

SETTLE_SECONDS = 0.05  # after a change of the host's addresses, more of which may follow

_ROUTE = struct.Struct("=8BI")  # rtmsg: family, length of the destination, …, table, …, type, flags
_RTM_GETROUTE, _RTA_DST = 26, 1
_MAIN_TABLE = 254
_UNICAST, _LOCAL, _BROADCAST, _ANYCAST = 1, 2, 3, 4
# Groups of rtnetlink(7): addresses and routes of both families.
_GROUPS = 0x10 | 0x40 | 0x100 | 0x400
_ALL_V4 = ipaddress.IPv4Network("0.0.0.0/0")


class HostNetwork:
    """Knows the host's own addresses, and what sessions may reach beside them."""

    def __init__(self, exceptions: Sequence[IPNetwork] = ()) -> None:
        """The operator's `exceptions` may be reached, whatever else holds."""
        self._exceptions = tuple(exceptions)
        self._watch: Netlink | None = None
        self._timer: asyncio.TimerHandle | None = None

    def find_rules(self) -> OutboundRules:
        """Returns the rules of this moment; takes less than a millisecond. Raises OSError."""
        own, families = _read_routes()
        return OutboundRules(tuple(make_rules(self._exceptions, own)), tuple(sorted(families)))

    def watch(self, on_change: Callable[[], None]) -> None:
        """Calls back whenever addresses or routes have changed, until it is closed."""
        self._watch = Netlink(NETLINK_ROUTE, _GROUPS)
        loop = asyncio.get_running_loop()

        def on_readable() -> None:
            assert self._watch is not None
            self._watch.skip()
            if self._timer is None:
                self._timer = loop.call_later(SETTLE_SECONDS, on_settled)

        def on_settled() -> None:
            self._timer = None
            on_change()

        loop.add_reader(self._watch.fileno(), on_readable)

    def close(self) -> None:
        """Stops watching; a second call is fine."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None


def make_rules(
    exceptions: Iterable[IPNetwork], own: Iterable[IPNetwork]
) -> Iterator[tuple[str, int, bool]]:
    """Yields the rules, the first of which that matches decides: see OutboundRules.

    `exceptions` may be reached, the host's `own` networks may not, nor may any that are special.
    """
    said = list(exceptions)  # what lies within these needs no rule of its own
    for network in said:
        yield str(network.network_address), network.prefixlen, True
    for network in (*REFUSED_V4, *REFUSED_V6, *sorted(own, key=str)):
        if not any(_is_within(network, other) for other in said):
            said.append(network)
            yield str(network.network_address), network.prefixlen, False
    for network in (_ALL_V4, PUBLIC_V6):
        yield str(network.network_address), network.prefixlen, True


def _is_within(network: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _read_routes() -> tuple[set[IPNetwork], set[int]]:
    """Returns the networks that are the host's own, and the families with a default route."""
    own: set[IPNetwork] = set()
    families: set[int] = set()
    with Netlink(NETLINK_ROUTE) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _ROUTE.pack(family, *[0] * 8)
            for _, body in netlink.dump(_RTM_GETROUTE, request):
                _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
                attributes = read_attributes(body[_ROUTE.size :])
                if kind in (_LOCAL, _BROADCAST, _ANYCAST) and _RTA_DST in attributes:
                    own.add(ipaddress.ip_network((attributes[_RTA_DST], length)))
                elif kind == _UNICAST and length == 0 and table == _MAIN_TABLE:
                    families.add(family)
    return own, families

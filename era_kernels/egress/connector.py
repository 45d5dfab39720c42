"""Connects to hosts of the internet: to the very addresses that were checked."""

from __future__ import annotations

import asyncio
import socket
from enum import StrEnum

from era_kernels.egress.addresses import AddressPolicy
from era_kernels.egress.local_destinations import IPAddress
from era_kernels.egress.resolver import Resolver

CONNECT_TIMEOUT = 10.0  # seconds for each address
TOTAL_TIMEOUT = 30.0  # seconds until a host is found and connected


class Outcome(StrEnum):
    """How a request to the proxy went, as it is counted."""

    CONNECTED = "connected"
    OFF = "off"  # the session has no internet access
    HOST = "host"  # not among the hosts that it may reach
    ADDRESS = "address"  # private, or of this host
    FAILED = "failed"  # no such host, or nobody answers there
    MALFORMED = "malformed"
    SLOW = "slow"  # the request was not complete in time


class Refused(Exception):
    """Ends a request to the proxy: the status and the sentence that its sender gets."""

    def __init__(self, status: int, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.status = status
        self.outcome = outcome


class Connector:
    """Finds the addresses of a host, and connects to the first that may be reached and answers."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver

    async def connect(self, host: str, port: int) -> socket.socket:
        """Returns a connection that does not block. Raises Refused."""
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                return await self._connect(host, port)
        except TimeoutError:
            raise Refused(504, f"{host} did not answer in time.", Outcome.FAILED) from None

    async def _connect(self, host: str, port: int) -> socket.socket:
        try:
            addresses = await self._resolver.resolve(host)
        except OSError:
            raise Refused(502, f"{host} was not found.", Outcome.FAILED) from None
        is_refused = False
        for address in addresses:
            try:
                if self._policy.allows(address):
                    return await _connect_to(address, port)
                is_refused = True
            except OSError:  # among them the deadline; the next address may answer
                continue
        if is_refused:  # which address it has is not told: it may be a secret of the network
            message = f"{host} has no address that sessions may reach (egress_allow_cidrs)."
            raise Refused(403, message, Outcome.ADDRESS)
        raise Refused(502, f"{host} could not be reached on port {port}.", Outcome.FAILED)


async def _connect_to(address: IPAddress, port: int) -> socket.socket:
    """Returns a connection. Raises OSError, also when it takes too long."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (str(address), port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection

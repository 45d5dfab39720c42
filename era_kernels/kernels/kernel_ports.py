"""Chooses the ports of kernels that speak tcp."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import ExitStack

from era_kernels.models import Network

PORT_COUNT = 5
MAX_LOOKS = 2  # machines at once whose ports are listed: code can make that take seconds
# Where each sandbox has all ports to itself: ports that nothing is registered for (IANA), below
# those that Linux gives to connections (32768 to 60999).
NAMESPACE_PORTS = tuple(range(29787, 29787 + PORT_COUNT))
LOOPBACK = "127.0.0.1"


class KernelPorts:
    """Chooses ports of 127.0.0.1 that are free, and gives none to two kernels at once.

    Where sandboxes share the host's network, other programs can still take a port before the kernel
    binds it, which does not start then.
    """

    def __init__(self, network: Network) -> None:
        """Takes the network of all sandboxes."""
        self.looks = asyncio.Semaphore(MAX_LOOKS)  # for what programs listen on
        self._network = network
        self._taken: set[int] = set()

    def take(self) -> tuple[int, ...]:
        """Returns PORT_COUNT ports, to be released at the kernel's end. Raises OSError."""
        if self._network is Network.OWN:
            return NAMESPACE_PORTS
        ports: list[int] = []
        with ExitStack() as stack:  # all are held until all are found: so each is another one
            while len(ports) < PORT_COUNT:
                one = stack.enter_context(socket.socket())
                one.bind((LOOPBACK, 0))
                port = one.getsockname()[1]
                if port not in self._taken:
                    ports.append(port)
        self._taken.update(ports)
        return tuple(ports)

    def release(self, ports: Iterable[int]) -> None:
        """Frees the ports, also those that were never taken here."""
        self._taken.difference_update(ports)

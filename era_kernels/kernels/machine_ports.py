"""Connects to the TCP ports of one machine, and lists those on which its programs listen."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from era_kernels.concurrency.single_flight import SingleFlight
from era_kernels.kernels.kernel_ports import KernelPorts
from era_kernels.kernels.sandbox_interface import Sandbox
from era_kernels.models import ListeningPort, Network, SessionListener
from era_kernels.sandbox.server.port_connections import LOOPBACK6
from era_kernels.sandbox.server.tcp_listeners import list_ports


class MachinePorts:
    """Knows which ports of a machine are its programs' own, and which the server's.

    The ports on which the kernel talks to the server, and the server serves storage, are nobody's.
    """

    def __init__(
        self, sandbox: Sandbox, network: Network | None, kernel_ports: KernelPorts
    ) -> None:
        """All machines share `kernel_ports`, from which kernels that speak tcp get theirs."""
        self._sandbox = sandbox
        self._network = network
        self._kernel_ports = kernel_ports
        self._reserved: set[int] = set()
        self._look = SingleFlight(self._list)

    def take_for_kernel(self) -> tuple[int, ...]:
        """Returns ports for a kernel, which has them until the sandbox ends. Raises OSError."""
        ports = self._kernel_ports.take()
        self._sandbox.ended.add_done_callback(lambda _: self._kernel_ports.release(ports))
        self._reserved.update(ports)
        return ports

    def reserve(self, listener: SessionListener) -> None:
        """Keeps others from a port on which the server listens."""
        if listener.socket.family == socket.AF_INET:
            self._reserved.add(listener.socket.getsockname()[1])

    async def dial(self, port: int) -> socket.socket:
        """Returns a connection to a program on 127.0.0.1:`port`, else on ::1, in the machine.

        Raises ConnectionRefusedError when nothing listens, and else as `Sandbox.connect`.
        """
        if port in self._reserved:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        try:
            return await self._sandbox.connect(port)
        except ConnectionRefusedError:
            return await self._sandbox.connect(port, address=LOOPBACK6)

    async def listening(self) -> list[ListeningPort]:
        """Returns the ports on which programs listen in the machine."""
        if not self._sandbox.is_running or self._network is Network.NONE:
            return []
        return await self._look.run_fresh()

    async def _list(self) -> list[ListeningPort]:
        pid = self._sandbox.pid
        if pid is None:
            return []
        async with self._kernel_ports.looks:
            is_own_network = self._network is Network.OWN
            ports = await asyncio.to_thread(list_ports, pid, is_own_network=is_own_network)
        return [one for one in ports if one.port not in self._reserved]

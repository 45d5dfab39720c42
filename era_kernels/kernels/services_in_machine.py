"""Listens inside one machine for what the server offers to its programs: storage, the internet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from era_kernels.kernels.machine_ports import MachinePorts
from era_kernels.kernels.sandbox_interface import Sandbox
from era_kernels.models import (
    ALL_STORAGE,
    NO_INTERNET,
    InternetAccess,
    SessionListener,
    StorageScope,
)

STORAGE_URL = "ERA_STORAGE_URL"  # the variable; the caller of a run may give it another value
# Where the server listens on a session's own loopback: no ports that programs choose for themselves
# or that Linux gives them (32768 to 60999).
STORAGE_PORT = 61787
PROXY_PORT = 61788
_NO_PROXY = "localhost,127.0.0.1,::1"


class ServedStorage(Protocol):
    """Represents the storage as it is served to one machine."""

    def close(self) -> None:
        """Ends all connections and closes the listening socket."""


class ServedInternet(Protocol):
    """Represents the internet as it is served to one machine."""

    def recheck(self) -> None:
        """Cuts off the connections that are not allowed any more."""

    def close(self) -> None:
        """Cuts off all connections and closes the listening socket."""


# Serves storage on the socket, as far as the scope of the moment allows.
ServeStorage = Callable[[SessionListener, Callable[[], StorageScope]], ServedStorage]
# Serves the internet by an HTTP proxy on the socket, as far as the access of the moment allows.
ServeInternet = Callable[[SessionListener, Callable[[], InternetAccess]], ServedInternet]


@dataclass(frozen=True, slots=True)
class Permissions:
    """Tells what the programs of a machine may use at the moment of a call."""

    storage: Callable[[], StorageScope] = lambda: ALL_STORAGE
    internet: Callable[[], InternetAccess] = lambda: NO_INTERNET


DEFAULT_PERMISSIONS = Permissions()


@dataclass(frozen=True, slots=True)
class ServerOffer:
    """Holds what serves machines; None: no machine has that."""

    storage: ServeStorage | None = None
    internet: ServeInternet | None = None


class MachineServices:
    """Serves one machine; `env` are the variables that tell its programs where."""

    def __init__(self, sandbox: Sandbox, ports: MachinePorts) -> None:
        """Serves nothing yet."""
        self.env: dict[str, str] = {}
        self._sandbox = sandbox
        self._ports = ports
        self._internet: ServedInternet | None = None
        self._access: Callable[[], InternetAccess] = lambda: NO_INTERNET

    async def serve_storage(self, serve: ServeStorage, permissions: Permissions) -> None:
        """Has storage served, until the sandbox ends. Raises KernelStartFailed."""
        listener = await self._listen(STORAGE_PORT)
        served = serve(listener, permissions.storage)
        self._sandbox.ended.add_done_callback(lambda _: served.close())
        self.env[STORAGE_URL] = listener.url

    async def serve_internet(self, serve: ServeInternet, permissions: Permissions) -> None:
        """Has the internet served, until the sandbox ends. Raises KernelStartFailed.

        Programs know the proxy from their start, also while they may reach nothing.
        """
        listener = await self._listen(PROXY_PORT)
        served = self._internet = serve(listener, permissions.internet)
        self._sandbox.ended.add_done_callback(lambda _: served.close())
        self._access = permissions.internet
        await self.apply_internet()
        for name, value in (
            ("HTTP_PROXY", listener.url),
            ("HTTPS_PROXY", listener.url),
            ("NO_PROXY", _NO_PROXY),
        ):
            self.env[name] = self.env[name.lower()] = value

    async def apply_internet(self) -> None:
        """Has what is allowed at this moment; returns when it is so, and all else is cut off.

        Packets have a way out where all hosts may be reached: of those to some hosts only the proxy
        knows the names.
        """
        if self._internet is not None:
            self._internet.recheck()
            await self._sandbox.outbound.switch(self._access().is_unbounded)

    @property
    def internet_problem(self) -> str | None:
        """Why packets have no way out, although they may; the proxy serves all the same."""
        return self._sandbox.outbound.problem

    async def _listen(self, port: int) -> SessionListener:
        listener = await self._sandbox.listen(port)
        self._ports.reserve(listener)
        return listener

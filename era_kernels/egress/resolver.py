"""Resolves the names of hosts in threads of its own, and bounds how many lookups there are."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from era_kernels.egress.local_destinations import IPAddress

MAX_LOOKUPS = 32  # of all sessions together
MAX_ADDRESSES = 8  # of a name that are tried

Lookup = Callable[[str], list[str]]


def lookup(host: str) -> list[str]:
    """Returns the addresses of a host, as the system resolves its name. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Resolver:
    """Finds the addresses of hosts. A lookup that nobody waits for any more ends by itself."""

    def __init__(self, lookup: Lookup = lookup, max_lookups: int = MAX_LOOKUPS) -> None:
        """`lookup` is called in a thread; it may take as long as the system's resolver does."""
        self._lookup = lookup
        self._slots = asyncio.Semaphore(max_lookups)

    async def resolve(self, host: str) -> list[IPAddress]:
        """Returns the addresses of a name, or the address that `host` is. Raises OSError."""
        with suppress(ValueError):
            return [ipaddress.ip_address(host)]
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def finish(result: list[str] | OSError) -> None:
            self._slots.release()
            if found.done():  # nobody waits any more
                return
            if isinstance(result, OSError):
                found.set_exception(result)
            else:
                found.set_result(result)

        def work() -> None:
            result: list[str] | OSError
            try:
                result = self._lookup(host)
            except (OSError, ValueError) as error:  # such as a label that is too long
                result = error if isinstance(error, OSError) else OSError(str(error))
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(finish, result)

        # A thread of the loop's pool would keep the server from stopping until DNS gives up.
        try:
            threading.Thread(target=work, name="egress-lookup", daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads
            self._slots.release()
            raise OSError(str(error)) from None
        return _addresses(await found)


def _addresses(texts: list[str]) -> list[IPAddress]:
    """Returns each address once, in order; those that name an interface are left out."""
    addresses: dict[IPAddress, None] = {}
    for text in texts:
        with suppress(ValueError):
            addresses[ipaddress.ip_address(text)] = None
    return list(addresses)[:MAX_ADDRESSES]

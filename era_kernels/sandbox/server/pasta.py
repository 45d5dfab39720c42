"""Gives sandboxes a way out by pasta, takes it away again, and starts pasta anew when it dies.

The work is done by a keeper, which the zygote forks: see `init/pasta_keeper.py`. Closing the socket
to it ends the way out; so does the end of the server, for whatever reason.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from era_kernels.concurrency.waiting import ends_within, within_timeout
from era_kernels.errors import KernelStartFailed, ShuttingDown
from era_kernels.models import JsonObject
from era_kernels.models.internet import OutboundRules
from era_kernels.sandbox.init.pasta_keeper import LINKS
from era_kernels.sandbox.init.sandbox_spec import OutboundSpec
from era_kernels.sandbox.linux import nftables, tap
from era_kernels.sandbox.server.control_channel import ChannelError, ControlChannel
from era_kernels.sandbox.server.init_pool import InitPool, PreparedInit

log = logging.getLogger(__name__)

PROGRAM = "pasta"
RESOLV_CONF = Path("/etc/resolv.conf")
NOT_WANTED = "this server does not use pasta"
OPEN_TIMEOUT = 8.0  # seconds until packets flow
CLOSE_TIMEOUT = 3.0  # seconds for a keeper to end everything; then it is killed
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 30.0  # seconds until pasta is started again
STABLE_SECONDS = 30.0  # pasta that lived for so long is started again at once


class Outbounds:
    """The ways out of all sandboxes of a server."""

    def __init__(
        self, init_pool: InitPool, uid: int, find_rules: Callable[[], OutboundRules] | None
    ) -> None:
        """`uid` is pasta's, where root runs the server.

        `find_rules` returns what sessions may reach at that moment; without it there is no way out.
        """
        self.pasta = shutil.which(PROGRAM) or ""
        self.uid = uid
        self.problem = NOT_WANTED if find_rules is None else find_problem()  # None: it works
        self.find_rules = find_rules or (lambda: OutboundRules((), ()))
        self.opened: set[Outbound] = set()
        self._init_pool = init_pool

    def find_resolvers(self) -> list[str]:
        """Returns the addresses that programs ask for names: pasta asks the host's resolver.

        It asks one of the same family, so that of two families the host's first decides (blocking).
        """
        by_family = {nftables.family_of(link.address): link.resolver for link in LINKS}
        families = self.find_rules().families
        with suppress(OSError):
            for line in RESOLV_CONF.read_text("utf-8", "replace").splitlines():
                keyword, *values = line.split() or [""]
                if keyword == "nameserver" and values:
                    family = nftables.family_of(values[0])
                    return [by_family[family]] if family in families else []
        return []

    def refresh(self) -> None:
        """Gives the rules of this moment to all ways out that are open."""
        try:
            rules = self.find_rules()
        except OSError:
            log.exception("the addresses of this host could not be read")
            return
        for outbound in tuple(self.opened):
            outbound.set_rules(rules)

    def spawn(self, control: socket.socket, network: int, spec: OutboundSpec) -> Callable[[], None]:
        """Starts a keeper; returns what kills it. Both descriptors are closed here.

        Raises ChannelError when there is no zygote.
        """
        zygote = self._init_pool.zygote
        request = zygote.spawn_outbound(control, network, spec)
        return partial(zygote.kill_init, request.number)


class Outbound:
    """The way out of one sandbox; there is none until `switch` is called."""

    def __init__(
        self, outbounds: Outbounds, prepared_init: PreparedInit, control: ControlChannel
    ) -> None:
        self.problem: str | None = None  # why there is none although it is wanted
        self._outbounds = outbounds
        self._prepared_init = prepared_init
        self._init_control = control
        self._is_wanted = False
        self._is_closed = False
        self._lock = asyncio.Lock()
        self._network: int | None = None  # a descriptor of its namespace
        self._keeper: Keeper | None = None
        self._retry: asyncio.Task[None] | None = None
        self._pause = 0.0

    async def switch(self, wanted: bool) -> None:
        """Opens or closes the way out; returns when packets flow, or none does any more.

        Where it cannot be opened `problem` tells why, and it is tried again after a while.
        """
        self._is_wanted = wanted and not self._is_closed
        if self._keeper is not None and not self._is_wanted:
            self._keeper.begin_close()  # also of one that is just starting
        async with self._lock:
            await self._hold_network()
            await self._follow()

    def set_rules(self, rules: OutboundRules) -> None:
        """Changes what may be reached."""
        if self._keeper is not None and self._keeper.is_open:
            self._keeper.send({"rules": rules.rules})

    async def aclose(self) -> None:
        """Closes the way out for good; a second call is fine."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        await self.switch(False)
        if self._network is not None:
            os.close(self._network)  # else it would outlive the sandbox
            self._network = None

    async def _hold_network(self) -> None:
        """Asks the init for its network, once, at the session's start: later the code is busy."""
        if self._network is None and not self._is_closed and self._outbounds.problem is None:
            with suppress(ChannelError, OSError):
                self._network = await _request_network(self._init_control)

    async def _follow(self) -> None:
        if self._outbounds.problem is not None:
            return
        if not self._is_wanted:
            self.problem = None
            await self._close_keeper()
        elif self._keeper is None:
            keeper = Keeper(self._on_ended)
            self._keeper = keeper
            self._outbounds.opened.add(self)
            try:
                if self._network is None:
                    raise OutboundFailed("its init did not hand over the network")
                await keeper.open(self._outbounds, self._prepared_init, self._network)
                if keeper is self._keeper:  # else it has ended again
                    self.problem = None
            except OutboundFailed as error:
                await self._close_keeper()
                self._try_later(str(error))
            except asyncio.CancelledError:
                await self._close_keeper()
                self._try_later("who asked for it has left")
                raise

    async def _close_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        self._outbounds.opened.discard(self)
        if keeper is not None:
            await keeper.aclose()

    def _on_ended(self, keeper: Keeper, why: str) -> None:
        """Starts pasta again, at once if it had lived for a while."""
        if keeper is not self._keeper:
            return
        if keeper.lived_seconds > STABLE_SECONDS:
            self._pause = 0.0
        self._keeper = None
        self._outbounds.opened.discard(self)
        self._try_later(why)

    def _try_later(self, why: str) -> None:
        if not self._is_wanted:
            return
        self.problem = why
        log.warning("the way out of a session is gone", extra={"why": why})
        if self._retry is None or self._retry.done() or self._retry is asyncio.current_task():
            self._retry = asyncio.create_task(self._open_again(self._pause))
        self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))

    async def _open_again(self, pause: float) -> None:
        await asyncio.sleep(pause)
        await self.switch(self._is_wanted)


class OutboundFailed(Exception):
    """A way out could not be opened; the text says why."""


class Keeper:
    """One keeper, and the pasta that it started."""

    def __init__(self, on_ended: Callable[[Keeper, str], None]) -> None:
        """`on_ended` is called with the reason when it ends by itself after it was open."""
        self._on_ended = on_ended
        self._control: ControlChannel | None = None
        self._kill: Callable[[], None] = lambda: None
        loop = asyncio.get_running_loop()
        self._up: asyncio.Future[str | None] = loop.create_future()  # None, or why it is not
        self._gone: asyncio.Future[None] = loop.create_future()
        self._opened_at: float | None = None
        self._is_closing = False
        self._why = "its keeper has ended"

    @property
    def is_open(self) -> bool:
        """True from when packets flow."""
        return self._opened_at is not None

    @property
    def lived_seconds(self) -> float:
        """For how long packets have flowed."""
        return 0.0 if self._opened_at is None else time.monotonic() - self._opened_at

    async def open(self, outbounds: Outbounds, prepared_init: PreparedInit, network: int) -> None:
        """Starts it, and waits until packets flow. Raises OutboundFailed."""
        try:
            rules = outbounds.find_rules()
        except OSError as error:
            raise OutboundFailed(str(error)) from error
        if not rules.families:
            raise OutboundFailed("this host has no default route")
        spec = OutboundSpec(
            pasta=outbounds.pasta,
            uid=outbounds.uid if prepared_init.profile.has_session_uids else None,
            cgroup_procs=prepared_init.cgroup_procs,
            rules=rules.rules,
            families=rules.families,
        )
        try:
            own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._control = ControlChannel(own, self._on_message, self._on_end)
            self._kill = outbounds.spawn(other, os.dup(network), spec)
        except (ChannelError, OSError, KernelStartFailed, ShuttingDown) as error:
            raise OutboundFailed(str(error) or "the sandbox has ended") from error
        if not await ends_within(self._up, OPEN_TIMEOUT):
            raise OutboundFailed(f"pasta did not start within {OPEN_TIMEOUT:g} seconds")
        why = self._up.result()
        if why is not None:
            raise OutboundFailed(why)
        self._opened_at = time.monotonic()
        with suppress(OSError):
            if outbounds.find_rules() != rules:  # an address of the host has come meanwhile
                outbounds.refresh()

    def send(self, message: JsonObject) -> None:
        """Sends a message, if it is still there."""
        if self._control is not None:
            with suppress(ChannelError):
                self._control.send(message)

    def begin_close(self) -> None:
        """Has everything ended; a second call is fine."""
        if not self._is_closing and self._control is not None:
            self._is_closing = True
            self._control.close_write()

    async def aclose(self) -> None:
        """Ends pasta and the connections through it; returns when they have ended."""
        self.begin_close()
        if self._control is None:
            return
        if not await within_timeout(asyncio.shield(self._gone), CLOSE_TIMEOUT):
            log.error("the keeper of a way out did not end, and is killed")
            self._kill()
            await within_timeout(asyncio.shield(self._gone), CLOSE_TIMEOUT)
        self._control.close()

    def _on_message(self, message: JsonObject) -> None:
        if "up" in message:
            self._set_up(None)
        else:
            self._why = message.get("failed") or message["ended"]

    def _on_end(self) -> None:
        was_up = self._up.done() and self._up.result() is None
        self._set_up(self._why)
        if not self._gone.done():
            self._gone.set_result(None)
        if was_up and not self._is_closing:
            self._on_ended(self, self._why)

    def _set_up(self, why: str | None) -> None:
        if not self._up.done():
            self._up.set_result(why)


def find_problem() -> str | None:
    """Returns why pasta cannot be used on this host, as far as that can be seen; else None."""
    if shutil.which(PROGRAM) is None:
        return "pasta is not installed (Debian and Ubuntu: apt-get install passt)"
    try:
        os.close(os.open(tap.TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"pasta needs {tap.TUN_DEVICE}: {error.strerror}"
    return None


async def _request_network(control: ControlChannel) -> int:
    """Returns a descriptor of the sandbox's network namespace. Raises ChannelError, OSError."""
    reply, descriptors = await control.request_descriptors({"op": "network"})
    if "error" in reply:
        raise OSError(reply["errno"], reply["error"])
    if not descriptors:
        raise OSError(0, "the server may open no more files")
    return descriptors.pop()

"""Requests inits from the zygote, and notices its death and its silence."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from era_kernels.errors import StartError, Unavailable
from era_kernels.models import JsonObject
from era_kernels.sandbox.init.sandbox_spec import OutboundSpec, SandboxSpec
from era_kernels.sandbox.server.control_channel import ChannelClosed, ControlChannel, SendRefused
from era_kernels.sandbox.server.zygote_process import EXIT_TIMEOUT, ZygoteProcess

log = logging.getLogger(__name__)

START_TIMEOUT = 60.0  # seconds for all imports, on a cold and busy disk
PULSE_INTERVAL = 1.0  # seconds between two questions whether it still serves


@dataclass(frozen=True, slots=True)
class InitRequest:
    """One requested init: its `number`, and what the zygote tells of it."""

    number: int
    on_pid: Callable[[int], None]  # called with the host's pid of an init in namespaces
    on_refused: Callable[[OSError], None]  # called with the reason when it cannot be made
    # Set when the init and its orphans are dead, or when nobody can know: the zygote is dead.
    exited: asyncio.Event = field(default_factory=asyncio.Event)


class ZygoteClient:
    """One zygote: a warm process in a session of its own, which forks inits on request."""

    def __init__(self, process: ZygoteProcess, control_socket: socket.socket) -> None:
        self.preload: list[str] = []  # modules that it imported, or could not import
        self.on_death: Callable[[], None] | None = None  # called once, unless it was closed
        self._process = process
        self._ready: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._requests: dict[int, InitRequest] = {}
        self._last_number = 0
        self._is_closing = False
        self._is_silent = False
        self._reap_task: asyncio.Task[None] | None = None
        self._reaped = asyncio.Event()
        self._control = ControlChannel(
            control_socket, self._on_message, self._on_end, self._on_silent
        )

    @classmethod
    async def start(
        cls,
        preload: Sequence[str],
        entry_paths: Sequence[Path],
        home: Path,
        cgroup_directories: Sequence[str] = (),
    ) -> ZygoteClient:
        """Starts a zygote that imports the modules of `preload`, also from `entry_paths`.

        A module that cannot be imported, or that leaves threads or descriptors behind, which
        forks could not use, is left out and logged. `home` is where imports may write caches;
        the zygote removes `cgroup_directories` when the server is gone.
        Raises StartError.
        """
        wanted = list(preload)
        while True:
            zygote = cls(*await ZygoteProcess.start(home))
            try:
                ready = await zygote._preload(wanted, entry_paths, cgroup_directories)
            except BaseException:
                await zygote.aclose()
                raise
            if "residue" not in ready:
                zygote.preload = wanted
                zygote._control.start_pulse(PULSE_INTERVAL)
                return zygote
            await zygote.aclose()
            wanted.remove(ready["module"])

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._process.pid

    @property
    def was_silent(self) -> bool:
        """True when it was killed because it did not answer."""
        return self._is_silent

    @property
    def is_alive(self) -> bool:
        """True while inits can be requested."""
        return self._reap_task is None and not (self._is_closing or self._is_silent)

    def check(self) -> None:
        """Checks that inits can be made. Raises Unavailable, which says why they cannot."""
        if not self.is_alive:
            why = "The process that forks kernels is being started again."
        elif self._control.is_late:
            why = "The process that forks kernels does not answer."
        elif self._control.refusal is not None:
            why = f"No kernel can be started: {SendRefused(self._control.refusal)}."
        else:
            return
        raise Unavailable(why, retry_after=1)

    def spawn_init(
        self,
        control: socket.socket,
        spec: SandboxSpec,
        on_pid: Callable[[int], None],
        on_refused: Callable[[OSError], None],
    ) -> InitRequest:
        """Requests an init that serves `control`, which is closed here.

        Of an init that cannot be made `control` is closed, too. Raises ChannelClosed when the
        zygote is dead.
        """
        self._last_number += 1
        request = InitRequest(self._last_number, on_pid, on_refused)
        message = {"op": "open", "number": request.number, "spec": spec.to_json()}
        self._requests[request.number] = request
        try:
            self._control.send(
                message,
                [control.detach()],
                partial(self._on_gone, request.number),
            )
        except BaseException:
            self._requests.pop(request.number, None)
            raise
        return request

    def spawn_outbound(
        self, control: socket.socket, network: int, spec: OutboundSpec
    ) -> InitRequest:
        """Requests the keeper of a way out of a network; both descriptors are closed here.

        Where it cannot be made `control` is closed, too. Raises ChannelClosed.
        """
        self._last_number += 1
        request = InitRequest(self._last_number, lambda pid: None, lambda error: None)
        message = {"op": "outbound", "number": request.number, "spec": spec.to_json()}
        self._requests[request.number] = request
        try:
            descriptors = [control.detach(), network]
            self._control.send(message, descriptors, partial(self._on_gone, request.number))
        except BaseException:
            self._requests.pop(request.number, None)
            raise
        return request

    def kill_init(self, number: int) -> None:
        """Kills an init that does not end by itself; its event is set when it is dead."""
        if self.is_alive and number in self._requests:
            self._control.send({"op": "kill", "number": number})

    async def wait_dead(self) -> None:
        """Waits for the end of a process that has been killed."""
        await self._reaped.wait()

    async def aclose(self) -> None:
        """Ends the zygote, by SIGKILL after EXIT_TIMEOUT; a second call is fine."""
        self._is_closing = True
        self._control.close_write()
        try:
            async with asyncio.timeout(EXIT_TIMEOUT):
                await self._reaped.wait()
        except TimeoutError:
            self._process.kill()
            await self._reaped.wait()
        self._process.close()

    async def _preload(
        self, preload: Sequence[str], entry_paths: Sequence[Path], cgroup_directories: Sequence[str]
    ) -> JsonObject:
        config = {
            "preload": preload,
            "paths": [str(path) for path in entry_paths],
            "cgroup_directories": cgroup_directories,
        }
        self._control.send(config)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                ready = await self._ready
        except (TimeoutError, ChannelClosed) as error:
            raise StartError(
                "The process that forks kernels could not start. It wrote: "
                + self._process.last_words()
            ) from error
        if "residue" in ready:
            log.warning(
                "not preloaded: it leaves what no fork survives",
                extra={"preload": ready["module"], "residue": ready["residue"]},
            )
        for module, reason in ready.get("failed", {}).items():
            log.warning("not preloaded", extra={"preload": module, "reason": reason})
        return ready

    def _on_message(self, message: JsonObject) -> None:
        if "gone" in message:
            error = message.get("error")
            self._on_gone(message["gone"], None if error is None else OSError(None, error))
        elif "init" in message:
            if request := self._requests.get(message["number"]):
                request.on_pid(message["init"])
        elif not self._ready.done():
            self._ready.set_result(message)

    def _on_gone(self, number: int, error: OSError | None) -> None:
        request = self._requests.pop(number, None)
        if request is not None:
            if error is not None:
                request.on_refused(error)
            request.exited.set()

    def _on_silent(self) -> None:
        """Kills a zygote that does not answer: it was stopped, or is stuck."""
        if self.is_alive:
            self._is_silent = True
            self._process.kill()

    def _on_end(self) -> None:
        if not self._ready.done():
            self._ready.set_exception(ChannelClosed())
        self._reap_task = asyncio.create_task(self._reap())
        if not self._is_closing and self.on_death is not None:
            self.on_death()

    async def _reap(self) -> None:
        await self._process.wait()
        for request in self._requests.values():
            request.exited.set()
        self._requests.clear()
        self._process.close()
        self._reaped.set()

"""Sandboxes: what is around a session's processes, and the one way to start a process.

server → zygote (one) → init (one per sandbox) → processes; `zygote.py` shows the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from era_kernels.errors import KernelStartFailed, ShuttingDown, StartError, Unavailable
from era_kernels.models import WITHOUT_WALLS, Ending, Isolation, JsonObject, Limits, Place
from era_kernels.sandbox import directories
from era_kernels.sandbox.channel import Channel, ChannelClosed
from era_kernels.sandbox.command import Command, NotStarted
from era_kernels.sandbox.feed import Feed
from era_kernels.sandbox.identities import Identities, uids_of_host
from era_kernels.sandbox.plan import Plan
from era_kernels.sandbox.process import Output, Process
from era_kernels.sandbox.quarters import Quarters
from era_kernels.sandbox.tiers import NO_WALLS, Walls, Wish
from era_kernels.sandbox.trial import Trial
from era_kernels.sandbox.watch import INTERVAL, Watch
from era_kernels.sandbox.wire import Oversized
from era_kernels.sandbox.zygote_process import ZygoteProcess

__all__ = ["NO_WALLS", "Command", "Output", "Process", "Sandbox", "Sandboxes", "Wish"]

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for an init to end everything, and then for the zygote to end it
LEFTOVERS = 32  # processes that have ended while others hold their outputs; more are closed


class Sandbox:
    """One init and the processes under it; made by `Sandboxes.open`."""

    def __init__(
        self,
        quarters: Quarters,
        plan: Plan,
        zygote: ZygoteProcess,
        forget: Callable[[Sandbox], None],
    ) -> None:
        """Order an init; `opened` waits for it. Raises ChannelClosed when the zygote is dead."""
        loop = asyncio.get_running_loop()
        self.pid: int | None = None  # of the init, on the host; never for signals
        self.failure: str | None = None  # why the walls could not be raised
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._number, self._gone = zygote.order(theirs, plan, self._entered)
        except ChannelClosed:
            mine.close()
            raise
        self._quarters = quarters
        self._plan = plan
        self._zygote = zygote
        self._forget = forget
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[Ending] = loop.create_future()
        self._processes: dict[int, Process] = {}
        self._last_process = 0
        self._clean = False  # the init's last word: nothing is left
        self._reason: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._control = Channel(mine, self._on_message, self._on_end)

    @property
    def runtime(self) -> Path:
        """The directory for sockets, on the host."""
        return self._quarters.runtime

    @property
    def inside(self) -> Path:
        """The same directory as the code sees it."""
        return self._quarters.inside

    @property
    def place(self) -> Place:
        """The session's directories as the code sees them."""
        return self._quarters.place

    @property
    def ended(self) -> asyncio.Future[Ending]:
        """How the init ended; a future of the caller's own, that may be cancelled."""
        return asyncio.shield(self._ended)

    @property
    def running(self) -> bool:
        """Whether processes can be started."""
        return self._closing is None and not self._ended.done()

    async def opened(self) -> bool:
        """Wait until the init is ready; False when it died before."""
        return await asyncio.shield(self._ready)

    def watch(self, workspace: Path, limits: Limits) -> None:
        """From now on: end the sandbox when its processes together exceed a limit."""
        self._watching = asyncio.create_task(self._watch(workspace, limits))

    async def spawn(
        self, command: Command, stdin: bytes | None = None, news: asyncio.Event | None = None
    ) -> Process:
        """Start a process; when this returns it runs its program, or is about to import its entry.

        Descriptor 0 is a pipe with `stdin` in it, else /dev/null; 1 and 2 are pipes that are always
        read here; who gives `news` takes what is in them, see `Output`.
        Raises NotStarted with the system's reason when the process could not be started, and
        KernelStartFailed when there is nobody to start it.
        """
        if not self.running:
            raise _refused(command, "its sandbox has ended")
        process, ends = self._new_process(command, stdin, news)
        message = {"op": "spawn", "process": process.number, "command": command.to_json()}
        try:
            reply = await self._control.request(message, ends)
        except asyncio.CancelledError:
            self._abandon(process)
            raise
        except (ChannelClosed, Oversized) as error:
            self._drop(process)
            why = str(error) or "its sandbox has ended"
            raise _refused(command, why) from error
        if "error" in reply:
            self._drop(process)
            raise NotStarted(command.name, reply["error"], reply["errno"])
        process.pid = reply["pid"]
        return process

    async def aclose(self, reason: str | None = None) -> None:
        """End everything in it; all is dead and the directory gone when this returns.

        `reason` becomes part of every ending. A second call waits for the first; the closing goes
        on when a caller is cancelled.
        """
        if self._closing is None:
            self._reason = reason
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _watch(self, workspace: Path, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        pause = INTERVAL
        watch: Watch | None = None
        while self.running:
            await asyncio.sleep(pause)
            if watch is None and self.pid is not None:
                watch = Watch(self.pid, workspace, limits)
            began = loop.time()
            exceeded = None if watch is None else await asyncio.to_thread(watch.exceeded)
            pause = max(INTERVAL, 20 * (loop.time() - began))
            if exceeded and self.running:
                log.warning("a session was ended", extra={"number": self._number, "why": exceeded})
                self._reason = exceeded
                self._closing = asyncio.create_task(self._close())

    def _new_process(
        self, command: Command, stdin: bytes | None, news: asyncio.Event | None
    ) -> tuple[Process, list[int]]:
        """A process to be, and its own ends of its descriptors 1, 2 and 0."""
        self._forget_processes()
        pipes: list[tuple[int, int]] = []
        try:
            for _ in range(2 if stdin is None else 3):
                pipes.append(os.pipe2(os.O_CLOEXEC))
        except OSError as error:
            for end in itertools.chain(*pipes):
                os.close(end)
            raise _refused(command, str(error)) from error
        (out, out_end), (err, err_end), *rest = pipes
        self._last_process += 1
        process = Process(self._last_process, self._control, Output(out, news), Output(err, news))
        ends = [out_end, err_end]
        for read, write in rest:
            process.stdin = Feed(write, stdin or b"")
            ends.append(read)
        self._processes[process.number] = process
        return process, ends

    def _forget_processes(self) -> None:
        """Those that are over; of those that left others behind, all but the newest."""
        for number in [n for n, process in self._processes.items() if process.finished]:
            del self._processes[number]
        left = [process for process in self._processes.values() if process.left]
        for process in left[:-LEFTOVERS]:
            process.close()

    def _abandon(self, process: Process) -> None:
        """Nobody waits for the start any more: kill what may have started."""
        with contextlib.suppress(ChannelClosed):
            message = {"op": "signal", "process": process.number, "signal": signal.SIGKILL.value}
            self._control.send(message)

    def _drop(self, process: Process) -> None:
        del self._processes[process.number]
        process.close()

    def _on_message(self, message: JsonObject) -> None:
        if "ended" in message:
            process = self._processes.get(message["ended"])
            if process is not None:
                process.end(Ending(code=message.get("code"), signal=message.get("signal")))
        elif "ready" in message:
            if not self._plan.namespaces:  # else it is 1 to itself
                self.pid = message["ready"]
            self._ready.set_result(True)
        elif "failed" in message:
            self.failure = message["failed"]
        elif "clean" in message:
            self._clean = True

    def _entered(self, pid: int) -> None:
        self.pid = pid

    def _on_end(self) -> None:
        """The init is gone, and with it, but for a fault of its own, everything."""
        ending = Ending(signal=signal.SIGKILL.value, reason=self._reason)
        if self._closing is None:
            log.error("an init died", extra={"number": self._number, "why": self.failure})
        if not self._ready.done():
            self._ready.set_result(False)
        for process in self._processes.values():
            process.end(ending)
        self._ended.set_result(ending)

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._control.finish()
        await _happens(self.ended)
        if not self._clean:
            self._zygote.kill(self._number)
        if not await _happens(self._gone.wait()):
            log.error("processes may have survived", extra={"number": self._number})
        if not self._ended.done():  # neither the init nor the zygote could be moved
            self._control.close()
            self._on_end()
        for process in self._processes.values():
            process.close()
        await asyncio.to_thread(self._quarters.clear)
        self._forget(self)


class Sandboxes:
    """All sandboxes of a server, and the zygote that they come from."""

    def __init__(self, runtime: Path, zygote: ZygoteProcess, paths: Sequence[Path]) -> None:
        """Use `open`."""
        self.walls = Walls(tier=WITHOUT_WALLS, plan=Plan())
        self._runtime = runtime
        self._identities = Identities(uids_of_host())
        self.zygote = zygote
        self._paths = tuple(paths)
        self._restarting: asyncio.Task[None] | None = None
        self._sandboxes: set[Sandbox] = set()
        self._closed = False

    @classmethod
    async def open(
        cls, runtime: Path, preload: Sequence[str], paths: Sequence[Path], wish: Wish | None = None
    ) -> Sandboxes:
        """Start the zygote: `preload` names modules that it imports, `paths` where entries lie.

        `runtime` is a short directory (made where missing) for the sandboxes' own directories.
        Without a wish there are no walls. Raises StartError when that is no place for sockets,
        the zygote does not start, or no walls can be had that are strong enough.
        """
        runtime = await asyncio.to_thread(directories.prepare, runtime)
        zygote = await ZygoteProcess.start(preload, paths, runtime / directories.ZYGOTE)
        sandboxes = cls(runtime, zygote, paths)
        if wish is not None:
            try:
                trial = Trial(runtime / directories.TRIAL, sandboxes._order)
                sandboxes.walls = await trial.strongest(wish) or sandboxes.walls
            except BaseException:
                await sandboxes.aclose()
                raise
        return sandboxes

    @property
    def isolation(self) -> Isolation:
        """How strong the walls are."""
        return self.walls.isolation

    async def open_sandbox(self, place: Place, limits: Limits) -> Sandbox:
        """A new sandbox with nothing in it but its init.

        Without walls nothing is confined to `place`, and `limits` bind nobody: `isolation` says
        so. Raises KernelStartFailed, ShuttingDown.
        """
        for _ in range(2):  # once more when the zygote dies between the check and the answer
            sandbox = await self._order(self.walls, place, limits)
            if await self._stands(sandbox):
                if self.walls.tier < WITHOUT_WALLS:
                    sandbox.watch(place.workspace, limits)
                return sandbox
            if sandbox.failure is not None:
                raise KernelStartFailed(f"The walls could not be raised: {sandbox.failure}.")
        raise KernelStartFailed("The process that forks kernels died, or cannot fork any more.")

    async def check(self) -> None:
        """Whether kernels can be started. Raises Unavailable when the zygote is dead."""
        if not self.zygote.alive:
            raise Unavailable("The process that forks kernels is not running.", retry_after=1)

    async def aclose(self) -> None:
        """End all sandboxes at once, then the zygote; a second call is fine."""
        self._closed = True
        if self._restarting is not None:
            await asyncio.wait({self._restarting})
        await asyncio.gather(*(sandbox.aclose() for sandbox in tuple(self._sandboxes)))
        await self.zygote.aclose()
        await asyncio.to_thread(directories.remove, self._runtime / directories.ZYGOTE)

    async def _order(self, walls: Walls, place: Place, limits: Limits) -> Sandbox:
        await self._living_zygote()  # where there may be none any more, nothing is made
        quarters = Quarters(self._runtime, walls, place, self._identities)
        try:
            plan = await _finished(quarters.furnish, limits)
        except OSError as error:
            await asyncio.to_thread(quarters.clear)
            raise KernelStartFailed(f"A session's directory cannot be used: {error}.") from error
        except (KernelStartFailed, asyncio.CancelledError):
            await asyncio.to_thread(quarters.clear)
            raise
        try:
            zygote = await self._living_zygote()  # again: it may have died meanwhile
            sandbox = Sandbox(quarters, plan, zygote, self._sandboxes.discard)
        except (ChannelClosed, OSError) as error:
            await asyncio.to_thread(quarters.clear)
            raise KernelStartFailed("The process that forks kernels cannot be reached.") from error
        except BaseException:
            await asyncio.to_thread(quarters.clear)
            raise
        self._sandboxes.add(sandbox)
        return sandbox

    async def _stands(self, sandbox: Sandbox) -> bool:
        """Wait for a sandbox to stand; it is closed when it does not or nobody waits any more."""
        try:
            if await sandbox.opened():
                return True
        except asyncio.CancelledError:
            await sandbox.aclose()
            raise
        await sandbox.aclose()
        return False

    async def _living_zygote(self) -> ZygoteProcess:
        while self._closed or not self.zygote.alive:
            if self._closed:
                raise ShuttingDown("The server is stopping.")
            if self._restarting is None or self._restarting.done():
                self._restarting = asyncio.create_task(self._restart())
            try:
                await asyncio.shield(self._restarting)
            except StartError as error:
                raise KernelStartFailed(str(error), retry_after=1) from error
        return self.zygote

    async def _restart(self) -> None:
        old = self.zygote
        await old.aclose()
        home = self._runtime / directories.ZYGOTE
        self.zygote = await ZygoteProcess.start(old.preload, self._paths, home)
        log.warning("the zygote was started again", extra={"pid": self.zygote.pid})


async def _finished(furnish: Callable[[Limits], Plan], limits: Limits) -> Plan:
    """Do it in a thread, to its end also when the caller is cancelled."""
    task = asyncio.create_task(asyncio.to_thread(furnish, limits))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _happens(what: Awaitable[object]) -> bool:
    """Wait for it, for as long as is reasonable."""
    try:
        async with asyncio.timeout(PATIENCE):
            await what
    except TimeoutError:
        return False
    return True


def _refused(command: Command, why: str) -> KernelStartFailed:
    return KernelStartFailed(f"{command.name} could not be started: {why}.")

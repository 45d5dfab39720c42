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
from collections.abc import Callable, Sequence
from pathlib import Path

from era_kernels.errors import KernelStartFailed, Unavailable
from era_kernels.models import WITHOUT_WALLS, Ending, Isolation, JsonObject, Limits, Place
from era_kernels.sandbox import directories
from era_kernels.sandbox.alarm import Alarm
from era_kernels.sandbox.cells import Cell, Cells, happens
from era_kernels.sandbox.channel import Channel, ChannelClosed
from era_kernels.sandbox.command import Command, NotStarted
from era_kernels.sandbox.feed import Feed
from era_kernels.sandbox.groups import Group, Groups
from era_kernels.sandbox.identities import Identities, uids_of_host
from era_kernels.sandbox.plan import Plan
from era_kernels.sandbox.process import Output, Process
from era_kernels.sandbox.quarters import Quarters
from era_kernels.sandbox.tiers import NO_WALLS, Walls, Wish
from era_kernels.sandbox.trial import Trial
from era_kernels.sandbox.watch import Watch, Watcher
from era_kernels.sandbox.wire import Oversized
from era_kernels.sandbox.zygote_process import ZygoteProcess

__all__ = ["NO_WALLS", "Command", "Output", "Process", "Sandbox", "Sandboxes", "Wish"]

log = logging.getLogger(__name__)

SIGKILL = signal.SIGKILL.value
LEFTOVERS = 32  # processes that have ended while others hold their outputs; more are closed


class Sandbox:
    """One init and the processes under it; made by `Sandboxes.open`."""

    def __init__(
        self,
        quarters: Quarters,
        plan: Plan,
        cell: Cell,
        forget: Callable[[Sandbox], None],
    ) -> None:
        """Have the walls raised; `opened` waits for it. Raises OSError."""
        loop = asyncio.get_running_loop()
        self.pid = cell.pid  # of the init, on the host; never for signals
        self.failure: str | None = None  # why the walls could not be raised
        self._cell = cell
        self._quarters = quarters
        self._plan = plan
        self._forget = forget
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[Ending] = loop.create_future()
        self._processes: dict[int, Process] = {}
        self._last_process = 0
        self._clean = False  # the init's last word: nothing is left
        self._reason: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self._watcher: Watcher | None = None
        self._watch: Watch | None = None
        self._control = Channel(cell.end, self._on_message, self._on_end)
        self._alarm = Alarm(quarters, self._exceeded)
        cell.entered = self._entered
        self._control.send({"op": "stand", "plan": plan.to_json()})

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

    def watch(self, watcher: Watcher) -> None:
        """From now on: end the sandbox when its processes together exceed a limit."""
        self._watcher = watcher
        if self.pid is not None and self.running:
            self._watch = self._quarters.watch(self.pid)
            watcher.add(self._watch, self._exceeded)

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
            message = {"op": "signal", "process": process.number, "signal": SIGKILL}
            self._control.send(message)

    def _drop(self, process: Process) -> None:
        del self._processes[process.number]
        process.close()

    def _on_message(self, message: JsonObject) -> None:
        if "ended" in message:
            process = self._processes.get(message["ended"])
            if process is not None:
                why = None if message.get("code") == 0 else self._quarters.overdrawn
                process.end(Ending(message.get("code"), message.get("signal"), why))
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
        if self._watcher is not None:
            self.watch(self._watcher)

    def _exceeded(self, why: str) -> None:
        if self.running:
            log.warning("a session was ended", extra={"number": self._cell.number, "why": why})
            self._reason = why
            self._closing = asyncio.create_task(self._close())

    def _on_end(self) -> None:
        """The init is gone, and with it, but for a fault of its own, everything."""
        ending = Ending(signal=SIGKILL, reason=self._reason or self._quarters.overdrawn)
        if self._closing is None:
            log.error("an init died", extra={"number": self._cell.number, "why": self.failure})
        if not self._ready.done():
            self._ready.set_result(False)
        for process in self._processes.values():
            process.end(ending)
        self._ended.set_result(ending)

    async def _close(self) -> None:
        if self._watcher is not None and self._watch is not None:
            self._watcher.discard(self._watch)
        self._alarm.close()
        self._control.finish()
        await happens(self.ended)
        if not self._clean:
            self._cell.kill()
        if not await self._cell.gone():
            log.error("processes may have survived", extra={"number": self._cell.number})
        if not self._ended.done():  # neither the init nor the zygote could be moved
            self._control.close()
            self._on_end()
        for process in self._processes.values():
            process.close()
        await self._cell.clear()
        await asyncio.to_thread(self._quarters.clear)
        self._forget(self)


class Sandboxes:
    """All sandboxes of a server, and the zygote that they come from."""

    def __init__(self, runtime: Path, cells: Cells) -> None:
        """Use `open`."""
        self.walls = Walls(tier=WITHOUT_WALLS, plan=Plan())
        self._runtime = runtime
        self._cells = cells
        self._watcher = Watcher()
        self._identities = Identities(uids_of_host())
        self._sandboxes: set[Sandbox] = set()

    @classmethod
    async def open(
        cls,
        runtime: Path,
        preload: Sequence[str],
        paths: Sequence[Path],
        wish: Wish | None = None,
        spares: int = 0,
    ) -> Sandboxes:
        """Start the zygote: `preload` names modules that it imports, `paths` where entries lie.

        `runtime` is a short directory (made where missing) for the sandboxes' own directories.
        Without a wish there are no walls. `spares` is how many inits wait, each of 3 MB, so that
        the next sandbox stands 15 ms sooner. Raises StartError when that is no place for sockets,
        the zygote does not start, or no walls can be had that are strong enough.
        """
        runtime = await asyncio.to_thread(directories.prepare, runtime)
        groups = Groups() if wish is None else await asyncio.to_thread(Groups.open)
        try:
            home = runtime / directories.ZYGOTE
            zygote = await ZygoteProcess.start(preload, paths, home, groups.homes)
        except BaseException:
            await asyncio.to_thread(groups.close)
            raise
        sandboxes = cls(runtime, Cells(zygote, paths, home, groups))
        if wish is not None:
            try:
                trial = Trial(runtime / directories.TRIAL, sandboxes._order)
                walls = await trial.strongest(wish) or sandboxes.walls
                sandboxes.walls = walls.grouped_by(groups)
                await sandboxes._cells.keep(sandboxes.walls, spares)
            except BaseException:
                await sandboxes.aclose()
                raise
        return sandboxes

    @property
    def zygote(self) -> ZygoteProcess:
        """The process from which all of them come."""
        return self._cells.zygote

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
                    sandbox.watch(self._watcher)
                return sandbox
            if sandbox.failure is not None:
                raise KernelStartFailed(f"The walls could not be raised: {sandbox.failure}.")
        raise KernelStartFailed("The process that forks kernels died, or cannot fork any more.")

    async def check(self) -> None:
        """Whether kernels can be started. Raises Unavailable when the zygote is dead."""
        if not self._cells.zygote.alive:
            raise Unavailable("The process that forks kernels is not running.", retry_after=1)

    async def aclose(self) -> None:
        """End all sandboxes at once, then the zygote; a second call is fine."""
        await self._cells.stop()
        await self._watcher.aclose()
        await asyncio.gather(*(sandbox.aclose() for sandbox in tuple(self._sandboxes)))
        await self._cells.aclose()
        await asyncio.to_thread(directories.remove, self._runtime / directories.ZYGOTE)

    async def _order(self, walls: Walls, place: Place, limits: Limits) -> Sandbox:
        cell = await self._cells.take(walls)  # its init is on its way while the rest is made
        quarters = Quarters(self._runtime, walls, place, limits, self._identities)
        try:
            plan = await _finished(quarters.furnish, cell.group)
            sandbox = Sandbox(quarters, plan, cell, self._sandboxes.discard)
        except BaseException as error:
            await cell.discard()
            await asyncio.to_thread(quarters.clear)
            if isinstance(error, OSError):
                why = f"A session's directory cannot be used: {error}."
                raise KernelStartFailed(why) from error
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


async def _finished(furnish: Callable[[Group | None], Plan], group: Group | None) -> Plan:
    """Do it in a thread, to its end also when the caller is cancelled."""
    task = asyncio.create_task(asyncio.to_thread(furnish, group))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _refused(command: Command, why: str) -> KernelStartFailed:
    return KernelStartFailed(f"{command.name} could not be started: {why}.")

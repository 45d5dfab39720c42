"""A machine is a sandbox with at most one kernel in it; the host opens machines and knows all."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from era_kernels.errors import KernelStartFailed
from era_kernels.kernels.environment import environment
from era_kernels.kernels.kernel import Kernel, forget
from era_kernels.kernels.languages import Language, Languages
from era_kernels.kernels.last_words import last_words
from era_kernels.kernels.program import Program, Unstarted
from era_kernels.kernels.unfinished import Unfinished
from era_kernels.kernels.wire import Connection
from era_kernels.models import Ending, Finished, Isolation, Limits, Output, Place, Reason
from era_kernels.sandbox.command import Command, NotStarted
from era_kernels.sandbox.provisioner import SandboxProvisioner
from era_kernels.sandbox.sandbox import Sandbox, Sandboxes

log = logging.getLogger(__name__)

START = 60.0  # seconds until a kernel must be ready, also on a host that starts many at once
MOST_ARGUMENTS = 6 << 20  # characters of arguments and variables; the system takes no more bytes
NO_KERNEL = "the kernel did not start"
_OF_KERNELS = (Reason.TIMEOUT, Reason.OUTPUT_LIMIT)  # reasons that concern a run on the kernel


class Machine:
    """A sandbox, programs in it, and a kernel once one is started.

    When the kernel ends, whyever, all of it ends. `ended` tells how, as soon as it is known;
    `aclose` waits until nothing is left.
    """

    def __init__(self, language: Language, sandbox: Sandbox, unfinished: Unfinished) -> None:
        """No kernel runs yet: `start_kernel` does that. `unfinished` is that of all machines."""
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._language = language
        self._unfinished = unfinished
        self._sandbox = sandbox
        self._provisioner = SandboxProvisioner(sandbox)
        self._kernel: Kernel | None = None
        self._closing: asyncio.Task[None] | None = None
        self._told = 0  # bytes of the kernel's own stderr
        # Called with what nobody waits for: it comes from children that programs left behind.
        self.late: Callable[[list[Output]], None] = forget
        sandbox.ended.add_done_callback(self._on_sandbox_ended)

    @property
    def kernel(self) -> Kernel:
        """The kernel, which has been started."""
        if self._kernel is None:
            raise RuntimeError("this machine has no kernel")
        return self._kernel

    @property
    def has_kernel(self) -> bool:
        """Whether a kernel has been started."""
        return self._kernel is not None

    @property
    def standing(self) -> bool:
        """Whether programs can run in it."""
        return not self.ended.done() and self._sandbox.running

    async def start_kernel(self, env: Mapping[str, str]) -> None:
        """Start the kernel, beside the programs that run already, and wait until it is ready.

        `env` is what the session adds to the environment. Raises KernelStartFailed; the machine
        has ended then.
        """
        try:
            await self._start_kernel(env)
        except KernelStartFailed:
            await self.aclose(NO_KERNEL)
            raise
        except BaseException:
            await self.aclose()
            raise

    async def _start_kernel(self, env: Mapping[str, str]) -> None:
        connection = Connection.new(self._sandbox.runtime, self._sandbox.inside)
        try:
            command = self._command(connection, env)
            await asyncio.to_thread(connection.write)
        except (OSError, ValueError) as error:
            raise KernelStartFailed(f"The kernel could not be started: {error}.") from error
        name = self._language.stuck_signal
        stuck = None if name is None else signal.Signals[name]
        mode = self._language.interrupt_mode
        self._kernel = Kernel(
            connection, self, mode, stuck_signal=stuck, unfinished=self._unfinished
        )
        await self._provisioner.launch_kernel([], command=command)
        self._provisioner.ended.add_done_callback(self._on_process_ended)
        try:
            await self._kernel.wait_ready(START)
        except KernelStartFailed as error:
            if self.ended.done() and self.ended.result().ordered:
                raise
            extra = {"program": command.name, "why": error.message, "words": self.last_words()}
            log.error("a kernel did not start", extra=extra)
            raise

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], stdin: str | None = None
    ) -> Program | Unstarted:
        """Run a program beside the kernel, in its directory and with an environment like its own.

        `stdin` is what it reads on descriptor 0. What keeps it from starting is told by what it
        answers, not raised. Raises ValueError for NUL, and KernelStartFailed when there is nobody
        to start it.
        """
        whole = self._environment(env)
        if not argv[0]:
            return Unstarted.refused("", os.strerror(errno.ENOENT), errno.ENOENT)
        if sum(map(len, itertools.chain(argv, whole, whole.values()))) > MOST_ARGUMENTS:
            return Unstarted.refused(argv[0], os.strerror(errno.E2BIG), errno.E2BIG)
        command = Command(argv=tuple(argv), env=whole, cwd=self._cwd)
        news = asyncio.Event()
        given = None if stdin is None else stdin.encode()
        try:
            process = await self._sandbox.spawn(command, given, news)
        except NotStarted as error:
            return Unstarted.refused(command.name, error.reason, error.number)
        except KernelStartFailed:
            if self.standing:
                raise
            ending = await self.fate()
            return Unstarted(Finished(ending.exit_code, state="lost", ending=ending))
        return Program(process, news, self, self.late)

    async def fate(self) -> Ending:
        """How it ended, in words for programs that ended with it."""
        ending = await asyncio.shield(self.ended)
        if ending.reason is not None and not ending.reason.startswith(_OF_KERNELS):
            return ending
        who = "kernel" if self.has_kernel else "sandbox"
        return Ending(reason=f"the {who} ended: {ending.cause}")

    async def signal(self, number: int) -> None:
        """Send a signal to the kernel's process group; nothing when it has ended."""
        await self._provisioner.send_signal(number)

    async def aclose(self, reason: str | None = None) -> None:
        """End everything in the machine: a run on it ends with 137 and the reason.

        Nothing is left of its processes when this returns. A second call waits, too.
        """
        self._end(Ending(reason=reason or Reason.STOPPED))
        await self._sandbox.aclose(reason)

    def last_words(self) -> str:
        """What the kernel's process wrote to its own stderr and was not told before."""
        process = self._provisioner.process
        if process is None:
            return ""
        process.stderr.drain()
        told, self._told = self._told, process.stderr.total
        return last_words(process.stderr.tail(), self._told - told, self._language.directory)

    @property
    def _cwd(self) -> str:
        return str(self._sandbox.place.workspace)

    def _environment(self, given: Mapping[str, str]) -> Mapping[str, str]:
        return environment(self._language.env, self._sandbox.place, given)

    def _command(self, connection: Connection, given: Mapping[str, str]) -> Command:
        """What starts the kernel: its entry in a forked process, or its program.

        Raises ValueError.
        """
        env, file = self._environment(given), connection.file
        entry = self._language.entry
        if entry is not None:
            return Command(entry=entry, args=(str(file),), env=env, cwd=self._cwd)
        return Command(argv=self._language.command(file), env=env, cwd=self._cwd)

    def _on_process_ended(self, ended: asyncio.Future[Ending]) -> None:
        if not ended.cancelled():
            ending = ended.result()
            self._end(ending)
            # Children that outlived the kernel must not keep its ports and files.
            self._closing = asyncio.create_task(self._sandbox.aclose(ending.cause))

    def _on_sandbox_ended(self, ended: asyncio.Future[Ending]) -> None:
        if not ended.cancelled():
            self._end(ended.result())

    def _end(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)


class KernelHost:
    """Opens machines and knows all of them."""

    def __init__(self, languages: Languages, sandboxes: Sandboxes) -> None:
        self.languages = languages
        self._sandboxes = sandboxes
        self._machines: set[Machine] = set()
        self._unfinished = Unfinished()

    @property
    def isolation(self) -> Isolation:
        """How strong the walls around every machine are."""
        return self._sandboxes.isolation

    @property
    def enforceable(self) -> frozenset[str]:
        """Which wishes for one session the walls enforce: names of `Limits`, and `mounts`."""
        return self._sandboxes.walls.enforceable

    async def open(
        self,
        language: str,
        place: Place,
        limits: Limits,
        env: Mapping[str, str],
        *,
        kernel: bool = True,
    ) -> Machine:
        """A machine at home in `place`, with a ready kernel or with none yet.

        `env` is what the session adds to the kernel's environment, which is built from empty
        otherwise. Raises UnsupportedLanguage, LanguageUnavailable, KernelStartFailed, ShuttingDown.
        """
        spec = self.languages.available(language)
        sandbox = await self._sandboxes.open_sandbox(place, limits)
        machine = Machine(spec, sandbox, self._unfinished)
        self._machines.add(machine)
        machine.ended.add_done_callback(lambda _: self._machines.discard(machine))
        if kernel:
            await machine.start_kernel(env)
        return machine

    async def check(self) -> None:
        """Whether kernels can be started. Raises Unavailable with what is wrong."""
        await self._sandboxes.check()

    async def aclose(self) -> None:
        """End all machines that are still there."""
        await asyncio.gather(*(machine.aclose() for machine in tuple(self._machines)))

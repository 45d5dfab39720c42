"""A machine is a sandbox with one kernel in it; the host opens machines and knows all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from era_kernels.errors import KernelStartFailed
from era_kernels.kernels.environment import environment
from era_kernels.kernels.kernel import InterruptMode, Kernel
from era_kernels.kernels.languages import Language, Languages
from era_kernels.kernels.wire import Connection
from era_kernels.models import Ending, Isolation, Limits, Place, Reason
from era_kernels.sandbox.command import Command
from era_kernels.sandbox.provisioner import SandboxProvisioner
from era_kernels.sandbox.sandbox import Sandbox, Sandboxes

log = logging.getLogger(__name__)

START = 60.0  # seconds until a kernel must be ready, also on a host that starts many at once
LAST_WORDS = 2000  # bytes of a kernel's own stderr that are logged when it does not start


class Machine:
    """A kernel and the sandbox around it. When the kernel ends, whyever, all of it ends.

    `ended` tells how, as soon as it is known; `aclose` waits until nothing is left.
    """

    def __init__(self, connection: Connection, sandbox: Sandbox, mode: InterruptMode) -> None:
        """Nothing runs yet: `start` does that."""
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.kernel = Kernel(connection, self, mode)
        self._sandbox = sandbox
        self._provisioner = SandboxProvisioner(sandbox)
        self._closing: asyncio.Task[None] | None = None

    async def start(self, command: Command) -> None:
        """Start the kernel and wait until it is ready. Raises KernelStartFailed."""
        await self._provisioner.launch_kernel([], command=command)
        self._provisioner.ended.add_done_callback(self._on_process_ended)
        try:
            await self.kernel.wait_ready(START)
        except KernelStartFailed as error:
            extra = {"program": command.name, "why": error.message, "words": self.last_words}
            log.error("a kernel did not start", extra=extra)
            raise

    async def signal(self, number: int) -> None:
        """Send a signal to the kernel's process group; nothing when it has ended."""
        await self._provisioner.send_signal(number)

    async def aclose(self, reason: str | None = None) -> None:
        """End everything in the machine: a run on it ends with 137 and the reason.

        Nothing is left of its processes when this returns. A second call waits, too.
        """
        self._end(Ending(reason=reason or Reason.STOPPED))
        await self._sandbox.aclose(reason)

    @property
    def last_words(self) -> str:
        """The last that the kernel's process wrote to its own stderr, past any protocol."""
        process = self._provisioner.process
        tail = b"" if process is None else process.stderr.tail()
        return tail[-LAST_WORDS:].decode(errors="replace")

    def _on_process_ended(self, ended: asyncio.Future[Ending]) -> None:
        if not ended.cancelled():
            ending = ended.result()
            self._end(ending)
            # Children that outlived the kernel must not keep its ports and files.
            self._closing = asyncio.create_task(self._sandbox.aclose(ending.cause))

    def _end(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)


class KernelHost:
    """Opens machines and knows all of them."""

    def __init__(self, languages: Languages, sandboxes: Sandboxes) -> None:
        self.languages = languages
        self._sandboxes = sandboxes
        self._machines: set[Machine] = set()

    @property
    def isolation(self) -> Isolation:
        """How strong the walls around every machine are."""
        return self._sandboxes.isolation

    async def open(
        self, language: str, place: Place, limits: Limits, env: Mapping[str, str]
    ) -> Machine:
        """A machine with a ready kernel, at home in `place`.

        `env` is what the session adds to the environment, which is built from empty otherwise.
        Raises UnsupportedLanguage, LanguageUnavailable, KernelStartFailed, ShuttingDown.
        """
        spec = self.languages.available(language)
        sandbox = await self._sandboxes.open_sandbox(place, limits)
        connection = Connection.new(sandbox.runtime, sandbox.inside)
        try:
            command = _command(spec, connection, sandbox.place, env)
            await asyncio.to_thread(connection.write)
        except (OSError, ValueError) as error:
            await sandbox.aclose()
            raise KernelStartFailed(f"The kernel could not be started: {error}.") from error
        except BaseException:
            await sandbox.aclose()
            raise
        machine = Machine(connection, sandbox, spec.interrupt_mode)
        self._machines.add(machine)
        machine.ended.add_done_callback(lambda _: self._machines.discard(machine))
        try:
            await machine.start(command)
        except BaseException:
            await machine.aclose()
            raise
        return machine

    async def check(self) -> None:
        """Whether kernels can be started. Raises Unavailable with what is wrong."""
        await self._sandboxes.check()

    async def aclose(self) -> None:
        """End all machines that are still there."""
        await asyncio.gather(*(machine.aclose() for machine in tuple(self._machines)))


def _command(
    language: Language, connection: Connection, place: Place, given: Mapping[str, str]
) -> Command:
    """What starts the kernel: its entry in a forked process, or its program. Raises ValueError."""
    env = environment(language.env, place, given)
    cwd = str(place.workspace)
    if language.entry is not None:
        return Command(entry=language.entry, args=(str(connection.file),), env=env, cwd=cwd)
    return Command(argv=language.command(connection.file), env=env, cwd=cwd)

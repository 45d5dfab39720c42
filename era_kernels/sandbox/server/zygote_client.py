"""The server's handle on the zygote: starts it, orders inits from it, learns of its death."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.models import JsonObject
from era_kernels.sandbox.init.spec import SandboxSpec
from era_kernels.sandbox.server.control_channel import ChannelClosed, ControlChannel
from era_kernels.sandbox.server.process import OutputPipe

log = logging.getLogger(__name__)

START_TIMEOUT = 60.0  # seconds for all imports, on a cold and busy disk
EXIT_TIMEOUT = 5.0  # seconds to leave after the end of file
# Every forked process shows both in /proc/PID/cmdline and /proc/PID/environ, whatever it becomes,
# so nothing of the server is in them. The last argument is where this very package lies (another
# copy may be installed); it is off the path again before anything else is imported.
_BOOT_CODE = (
    "import sys; sys.path.insert(0, sys.argv[2]); import era_kernels; del sys.path[0]; "
    "from era_kernels.sandbox.init.zygote import main; main()"
)
_PACKAGE_PARENT = Path(__file__).parents[3]


class ZygoteClient:
    """One zygote: a process in a session of its own that is warm and forks inits on request."""

    def __init__(
        self, popen: subprocess.Popen[bytes], control_socket: socket.socket, output_fd: int
    ) -> None:
        """`words`: the read end of what the zygote writes to its descriptors 1 and 2."""
        self.pid = popen.pid
        self.preload: list[str] = []  # what it was asked to import and did, or could not find
        self._popen = popen
        self._output = OutputPipe(output_fd)
        self._ready: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._exit_events: dict[int, asyncio.Event] = {}
        self._on_pid: dict[int, Callable[[int], None]] = {}
        self._last_number = 0
        self._is_closing = False
        self._reap_task: asyncio.Task[None] | None = None
        self._reaped = asyncio.Event()
        self._control = ControlChannel(control_socket, self._on_message, self._on_end)

    @classmethod
    async def start(
        cls,
        preload: Sequence[str],
        entry_paths: Sequence[Path],
        home: Path,
        cgroup_directories: Sequence[str] = (),
    ) -> ZygoteClient:
        """A zygote that has imported the modules of `preload`, with `paths` to find them.

        A module that cannot be imported, or that leaves threads or descriptors behind, which no
        fork survives, is left out and logged. `home` is where imports may write their caches,
        `groups` are directories of control groups to remove when the server is gone.
        Raises StartError.
        """
        wanted = list(preload)
        while True:
            zygote = cls(*await asyncio.to_thread(_start_process, home))
            try:
                ready = await zygote._preload(wanted, entry_paths, cgroup_directories)
            except BaseException:
                await zygote.aclose()
                raise
            if "residue" not in ready:
                zygote.preload = wanted
                return zygote
            await zygote.aclose()
            wanted.remove(ready["module"])

    @property
    def is_alive(self) -> bool:
        """Whether inits can be ordered."""
        return self._reap_task is None and not self._is_closing

    def spawn_init(
        self, control: socket.socket, spec: SandboxSpec, on_pid: Callable[[int], None]
    ) -> tuple[int, asyncio.Event]:
        """Have an init forked that listens on `control`, which is closed here.

        `entered` is told the pid of an init in namespaces, where it is 1 to itself.

        Returns the order's number and an event that is set when the init and everything it left
        behind are dead, or nobody can know any more because the zygote is dead itself.
        Raises ChannelClosed when the zygote is.
        """
        self._last_number += 1
        exited = asyncio.Event()
        message = {"op": "open", "number": self._last_number, "spec": spec.to_json()}
        self._control.send(message, [control.detach()])
        self._exit_events[self._last_number] = exited
        self._on_pid[self._last_number] = on_pid
        return self._last_number, exited

    def kill_init(self, number: int) -> None:
        """End an init that does not end by itself; its event tells when it is done."""
        if self.is_alive and number in self._exit_events:
            self._control.send({"op": "kill", "number": number})

    async def aclose(self) -> None:
        """The zygote has left, or was killed, when this returns; a second call is fine."""
        self._is_closing = True
        self._control.close_write()
        try:
            async with asyncio.timeout(EXIT_TIMEOUT):
                await self._reaped.wait()
        except TimeoutError:
            self._popen.kill()
            await self._reaped.wait()
        self._output.close()

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
            self._output.drain()
            raise StartError(
                "The process that forks kernels could not start. Its last words: "
                + self._output.tail().decode(errors="replace")
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
            self._on_pid.pop(message["gone"], None)
            self._exit_events.pop(message["gone"]).set()
        elif "init" in message:
            self._on_pid[message["number"]](message["init"])
        elif not self._ready.done():
            self._ready.set_result(message)

    def _on_end(self) -> None:
        if not self._is_closing:
            log.error("the zygote died", extra={"pid": self.pid})
        if not self._ready.done():
            self._ready.set_exception(ChannelClosed())
        self._reap_task = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        """Wait for the process, which has closed its socket, so that it cannot last."""
        try:
            await asyncio.to_thread(self._popen.wait, EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            await asyncio.to_thread(self._popen.wait)
        for exited in self._exit_events.values():
            exited.set()
        self._exit_events.clear()
        self._output.close()
        self._reaped.set()


def _start_process(home: Path) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """Execute the zygote (blocking): the process, the server's socket, the pipe of its words."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT_CODE, str(theirs.fileno()), str(_PACKAGE_PARENT)],
            # Without a locale the interpreter would go into UTF-8 mode, which programs can see.
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(home)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        mine.close()
        os.close(read)
        raise StartError(f"The interpreter {sys.executable} could not be executed.") from error
    finally:
        theirs.close()
        os.close(write)
    return popen, mine, read

"""Starts the zygote, requests inits from it, and notices its death."""

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
# The zygote's command line and environment are visible in /proc/PID/cmdline and /proc/PID/environ
# of every forked process, so they hold nothing of the server. The last argument is the parent of
# this package (another copy may be installed); it is removed from the path before other imports.
_BOOT_CODE = (
    "import sys; sys.path.insert(0, sys.argv[2]); import era_kernels; del sys.path[0]; "
    "from era_kernels.sandbox.init.zygote import main; main()"
)
_PACKAGE_PARENT = Path(__file__).parents[3]


class ZygoteClient:
    """One zygote: a warm process in a session of its own, which forks inits on request."""

    def __init__(
        self, popen: subprocess.Popen[bytes], control_socket: socket.socket, output_fd: int
    ) -> None:
        """Takes the read end of the pipe that is descriptor 1 and 2 of the zygote."""
        self.pid = popen.pid
        self.preload: list[str] = []  # modules that it imported, or could not import
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
        """Starts a zygote that imports the modules of `preload`, also from `entry_paths`.

        A module that cannot be imported, or that leaves threads or descriptors behind, which
        forks could not use, is left out and logged. `home` is where imports may write caches;
        the zygote removes `cgroup_directories` when the server is gone.
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
        """True while inits can be requested."""
        return self._reap_task is None and not self._is_closing

    def spawn_init(
        self, control: socket.socket, spec: SandboxSpec, on_pid: Callable[[int], None]
    ) -> tuple[int, asyncio.Event]:
        """Requests an init that serves `control`, which is closed here.

        `on_pid` is called with the host's pid of an init in namespaces, which sees itself as 1.

        Returns the request's number and an event that is set when the init and its orphans are
        dead, or when that cannot be known because the zygote is dead.
        Raises ChannelClosed when the zygote is dead.
        """
        self._last_number += 1
        exited = asyncio.Event()
        message = {"op": "open", "number": self._last_number, "spec": spec.to_json()}
        self._control.send(message, [control.detach()])
        self._exit_events[self._last_number] = exited
        self._on_pid[self._last_number] = on_pid
        return self._last_number, exited

    def kill_init(self, number: int) -> None:
        """Kills an init that does not end by itself; its event is set when it is dead."""
        if self.is_alive and number in self._exit_events:
            self._control.send({"op": "kill", "number": number})

    async def aclose(self) -> None:
        """Ends the zygote, by SIGKILL after EXIT_TIMEOUT; a second call is fine."""
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
                "The process that forks kernels could not start. It wrote: "
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
        """Waits for the exit of the process, which has closed its socket; kills it if need be."""
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
    """Executes the zygote (blocking); returns it, the control socket and its output pipe."""
    control_socket, zygote_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        popen = subprocess.Popen(
            [sys.executable, "-c", _BOOT_CODE, str(zygote_socket.fileno()), str(_PACKAGE_PARENT)],
            # Without a locale the interpreter would go into UTF-8 mode, which programs can see.
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(home)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            pass_fds=[zygote_socket.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        control_socket.close()
        os.close(read)
        raise StartError(f"The interpreter {sys.executable} could not be executed.") from error
    finally:
        zygote_socket.close()
        os.close(write)
    return popen, control_socket, read

"""Jupyter's view of a process in a sandbox: start it, signal it, learn of its death."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.command import Command
from era_kernels.sandbox.server.process import Process
from era_kernels.sandbox.server.sandbox import Sandbox


class SandboxProvisioner(KernelProvisionerBase):
    """Starts a kernel as a process of a sandbox; the sandbox belongs to whoever opened it.

    Exit codes are those of `subprocess.Popen`: negative for a signal. Beyond Jupyter's interface
    there is `ended`, a future, so that nobody has to poll.
    """

    def __init__(self, sandbox: Sandbox, **kwargs: Any) -> None:
        """`kwargs` are traits: `kernel_id`, `kernel_spec`, `parent`."""
        super().__init__(**kwargs)
        self._sandbox = sandbox
        self._process: Process | None = None

    @property
    def process(self) -> Process | None:
        """The process that was started last, for its output; None before the launch."""
        return self._process

    @property
    def ended(self) -> asyncio.Future[ExitInfo]:
        """How the process ended, within a millisecond; a future of the caller's own.

        Raises RuntimeError before the launch.
        """
        if self._process is None:
            raise RuntimeError("nothing was launched")
        return self._process.ended

    @property
    def has_process(self) -> bool:
        """Whether a process runs; asserted by the manager after `launch_kernel`."""
        return self._process is not None and self._process.is_running

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Called by the manager before `launch_kernel`, which gets what this returns.

        Unlike Jupyter's own, the environment is never the server's: without `env` it is empty.
        """
        kwargs.setdefault("env", {})
        extra = kwargs.pop("extra_arguments", [])
        if "cmd" not in kwargs and self.kernel_spec is not None:
            kwargs["cmd"] = [*self.kernel_spec.argv, *extra]
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel: the keyword `command` (a Command), else `cmd` with `env` and `cwd`.

        Raises KernelStartFailed with the system's reason.
        """
        command = kwargs.get("command")
        if command is None:
            command = Command(argv=tuple(cmd), env=kwargs["env"], cwd=str(kwargs["cwd"]))
        self._process = await self._sandbox.spawn(command)
        return self.connection_info

    async def poll(self) -> int | None:
        """None while the process runs; its exit code after, 0 when there never was one."""
        if self.has_process:
            return None
        return 0 if self._process is None else _returncode(self._process.ended.result())

    async def wait(self) -> int | None:
        """Wait for the process to end; its exit code."""
        return 0 if self._process is None else _returncode(await self._process.ended)

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group; called for interrupts in signal mode."""
        if self._process is not None:
            await self._process.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """End the process group at once; what left the group ends with the sandbox."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Ask the process group to end."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Called last in a shutdown: nothing of the kernel's group may run on."""
        await self.kill(restart)

    def _finalize_env(self, env: dict[str, str]) -> None:
        if self.kernel_spec is not None:  # the base class takes one for granted
            super()._finalize_env(env)


def _returncode(exit_info: ExitInfo) -> int:
    """An ending as `subprocess.Popen.returncode` tells it."""
    if exit_info.signal is not None:
        return -exit_info.signal
    return -signal.SIGKILL.value if exit_info.code is None else exit_info.code

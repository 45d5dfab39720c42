"""Opens machines, which are sandboxes with at most one kernel in each."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from era_kernels.errors import KernelStartFailed
from era_kernels.kernels.active_run import KernelTimeouts
from era_kernels.kernels.crash_output import crash_stderr
from era_kernels.kernels.environment import build_environment
from era_kernels.kernels.exec_process import ExecProcess, FailedExec
from era_kernels.kernels.kernel import Kernel, discard_output
from era_kernels.kernels.kernel_ports import KernelPorts
from era_kernels.kernels.kernelspecs import Kernelspec
from era_kernels.kernels.machine_ports import MachinePorts
from era_kernels.kernels.receive_budget import ReceiveBudget
from era_kernels.kernels.sandbox_interface import Sandbox, SandboxProcess
from era_kernels.kernels.services_in_machine import (
    MachineServices,
    Permissions,
    ServerOffer,
)
from era_kernels.kernels.socket_connector import AcceptChannel
from era_kernels.kernels.wire_protocol import ConnectionInfo
from era_kernels.models import (
    EndReason,
    ExecutionEnd,
    ExitInfo,
    Output,
)
from era_kernels.sandbox.server.process_spec import ProcessNotStarted, ProcessSpec
from era_kernels.sandbox.server.sandbox_kill import end_one
from era_kernels.sandbox.server.server_listeners import ChannelListeners

log = logging.getLogger(__name__)

# Seconds until a kernel must be ready, also on a host that starts many at once.
START_TIMEOUT = 60.0
# Characters of arguments and variables; the system takes no more bytes.
MAX_ARGUMENTS_LENGTH = 6 << 20
CHANNELS = ("shell", "iopub", "stdin", "control")  # that the server uses
KERNEL_NOT_STARTED = "the kernel did not start"
# Reasons that concern a run on the kernel.
_RUN_REASONS = (EndReason.TIMEOUT, EndReason.OUTPUT_LIMIT)


class Machine:
    """Owns a sandbox, the programs in it, and a kernel once one is started.

    When the kernel ends, for whatever reason, the whole machine ends. `ended` has the `ExitInfo` as
    soon as it is known; `aclose` waits until no process is left.
    """

    def __init__(
        self,
        kernelspec: Kernelspec,
        sandbox: Sandbox,
        receive_budget: ReceiveBudget,
        kernel_ports: KernelPorts,
        on_late_output: Callable[[list[Output]], None] = discard_output,
    ) -> None:
        """Runs no kernel yet: `start_kernel` does that.

        All kernels share `receive_budget` and `kernel_ports`. `on_late_output` is called with
        output that no caller waits for, of the kernel and of children that programs left behind.
        """
        self.ended: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
        self._kernelspec = kernelspec
        self._receive_budget = receive_budget
        self._sandbox = sandbox
        self.ports = MachinePorts(sandbox, kernelspec.network, kernel_ports)
        self.services = MachineServices(sandbox, self.ports)
        self._kernel_process: SandboxProcess | None = None
        self._kernel: Kernel | None = None
        self._close_task: asyncio.Task[None] | None = None
        self._reported_stderr_bytes = 0  # of the kernel's own stderr
        # Waits, when the machine has ended, until none of its processes is left and its directories
        # are free. Raises EndUnfinished when that takes too long; the end goes on then.
        self.wait_gone: Callable[[], Coroutine[Any, Any, None]] = sandbox.aclose
        self._on_late_output = on_late_output
        sandbox.ended.add_done_callback(self._on_sandbox_ended)

    @property
    def kernel(self) -> Kernel:
        """The kernel that has been started. Raises RuntimeError when there is none."""
        if self._kernel is None:
            raise RuntimeError("this machine has no kernel")
        return self._kernel

    @property
    def has_kernel(self) -> bool:
        """True when a kernel has been started."""
        return self._kernel is not None

    @property
    def is_running(self) -> bool:
        """True while programs can run in the machine."""
        return not self.ended.done() and self._sandbox.is_running

    async def serve(self, offer: ServerOffer, permissions: Permissions) -> None:
        """Has the server's offer served to the programs; called before the first of them.

        Raises KernelStartFailed; the machine has ended then.
        """
        try:
            starts = []
            if offer.storage is not None:
                starts.append(self.services.serve_storage(offer.storage, permissions))
            if offer.internet is not None:
                starts.append(self.services.serve_internet(offer.internet, permissions))
            await asyncio.gather(*starts)  # both requests are on their way at once
        except BaseException:
            await self.aclose(KERNEL_NOT_STARTED)
            raise

    async def start_kernel(self, env: Mapping[str, str]) -> None:
        """Starts the kernel, beside the programs that run already, and waits until it is ready.

        `env` is what the session adds to the environment. Raises KernelStartFailed; the machine
        has ended then.
        """
        try:
            await self._start_kernel(env)
        except KernelStartFailed:
            await self.aclose(KERNEL_NOT_STARTED)
            raise
        except BaseException:
            await self.aclose()
            raise

    async def _start_kernel(self, env: Mapping[str, str]) -> None:
        try:
            connection_info = self._new_connection()
            spec = self._process_spec(connection_info, env)
            # A kernel that is forked is ours, and starts without a heartbeat and its threads.
            has_heartbeat = self._kernelspec.entry is None and not connection_info.connects
            accept_channel = self._listen_for_kernel(connection_info)
            await asyncio.to_thread(connection_info.write_file, heartbeat=has_heartbeat)
        except (OSError, ValueError) as error:
            raise KernelStartFailed(f"The kernel could not be started: {error}.") from error
        signal_name = self._kernelspec.dump_signal
        dump_signal = None if signal_name is None else signal.Signals[signal_name]
        mode = self._kernelspec.interrupt_mode
        process = self._kernel_process = await self._sandbox.spawn(spec)
        process.ended.add_done_callback(self._on_process_ended)
        self._kernel = Kernel(
            connection_info,
            self,
            mode,
            KernelTimeouts(settle=self._kernelspec.settle),
            dump_signal=dump_signal,
            receive_budget=self._receive_budget,
            has_fence=self._kernelspec.fence,
            connect_port=self._sandbox.connect,
            accept_channel=accept_channel,
        )
        try:
            await self._kernel.wait_ready(START_TIMEOUT)
            self._kernel.on_late_output = self._on_late_output
        except KernelStartFailed as error:
            if self.ended.done() and self.ended.result().is_intended:
                raise
            extra = {"program": spec.name, "why": error.message, "words": self.take_stderr()}
            log.error("a kernel did not start", extra=extra)
            raise

    async def start_command(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdin: str | None = None,
        cwd: str | None = None,
    ) -> ExecProcess | FailedExec:
        """Runs a program beside the kernel, with an environment like its own.

        It begins in the kernel's directory, or in `cwd` below that. `stdin` is what the program
        reads on descriptor 0. A program that cannot be started is returned as a FailedExec, not
        raised. Raises ValueError for NUL, and KernelStartFailed when the sandbox cannot start
        programs.
        """
        full_env = self._environment(env)
        if not argv[0]:
            return FailedExec.from_os_error("", os.strerror(errno.ENOENT), errno.ENOENT)
        if sum(map(len, itertools.chain(argv, full_env, full_env.values()))) > MAX_ARGUMENTS_LENGTH:
            return FailedExec.from_os_error(argv[0], os.strerror(errno.E2BIG), errno.E2BIG)
        spec = ProcessSpec(argv=tuple(argv), env=full_env, cwd=self._cwd, subdirectory=cwd or ".")
        readable = asyncio.Event()
        stdin_bytes = None if stdin is None else stdin.encode()
        try:
            process = await self._sandbox.spawn(spec, stdin_bytes, readable)
        except ProcessNotStarted as error:
            return FailedExec.from_os_error(spec.name, error.reason, error.errno)
        except KernelStartFailed:
            if self.is_running:
                raise
            exit_info = await self.exit_info_for_commands()
            return FailedExec(ExecutionEnd(exit_info.exit_code, state="lost", exit_info=exit_info))
        return ExecProcess(process, readable, self, self._on_late_output)

    async def exit_info_for_commands(self) -> ExitInfo:
        """Returns how the machine ended, in words for programs that ended with it."""
        exit_info = await asyncio.shield(self.ended)
        if exit_info.reason is not None and not exit_info.reason.startswith(_RUN_REASONS):
            return exit_info
        what_ended = "kernel" if self.has_kernel else "sandbox"
        return ExitInfo(reason=f"the {what_ended} ended: {exit_info.description}")

    async def signal(self, number: int) -> None:
        """Sends a signal to the kernel's process group; does nothing when the kernel has ended."""
        if self._kernel_process is not None:
            await self._kernel_process.signal(number)

    async def aclose(self, reason: str | None = None) -> None:
        """Ends everything in the machine: a run on it ends with 137 and the reason.

        Waits until none of its processes is left, at most END_TIMEOUT seconds; a second call waits,
        too, and `wait_gone` tells.
        """
        self._set_ended(ExitInfo(reason=reason or EndReason.STOPPED))
        await self._end_sandbox(reason)

    def take_stderr(self) -> str:
        """Returns what the kernel's process wrote to its own stderr since the last call."""
        process = self._kernel_process
        if process is None:
            return ""
        process.stderr.drain()
        reported_before, self._reported_stderr_bytes = (
            self._reported_stderr_bytes,
            process.stderr.total_bytes,
        )
        return crash_stderr(
            process.stderr.tail(),
            self._reported_stderr_bytes - reported_before,
            self._kernelspec.directory,
        )

    def _new_connection(self) -> ConnectionInfo:
        """Returns where the kernel has to bind its sockets. Raises OSError without free ports."""
        ports = None
        if self._kernelspec.transport == "tcp":
            ports = self.ports.take_for_kernel()
        sandbox = self._sandbox
        return ConnectionInfo.new(
            sandbox.runtime_directory,
            sandbox.inner_runtime_directory,
            ports,
            self._kernelspec.ipc_separator,
            connects=self._kernelspec.connects,
        )

    def _listen_for_kernel(self, connection_info: ConnectionInfo) -> AcceptChannel | None:
        """Listens where a kernel connects to the server, until its sandbox ends. Raises OSError."""
        if not connection_info.connects:
            return None
        paths = {channel: connection_info.socket_path(channel) for channel in CHANNELS}
        owner = self._sandbox.runtime_directory.stat()
        gid = None if owner.st_uid == os.geteuid() else owner.st_gid
        listeners = ChannelListeners(paths, gid, self._sandbox.pid or 0)
        self._sandbox.ended.add_done_callback(lambda _: listeners.close())
        return listeners.accept

    @property
    def _cwd(self) -> str:
        return str(self._sandbox.inner_paths.workspace)

    def _environment(self, session_env: Mapping[str, str]) -> Mapping[str, str]:
        own_env = {**self.services.env, **session_env}
        return build_environment(self._kernelspec.env, self._sandbox.inner_paths, own_env)

    def _process_spec(
        self, connection_info: ConnectionInfo, session_env: Mapping[str, str]
    ) -> ProcessSpec:
        """Returns what starts the kernel: its entry in a forked process, or its program.

        Raises ValueError.
        """
        env, file = self._environment(session_env), connection_info.file_in_sandbox
        entry = self._kernelspec.entry
        if entry is not None:
            return ProcessSpec(entry=entry, args=(str(file),), env=env, cwd=self._cwd)
        return ProcessSpec(argv=self._kernelspec.command(file), env=env, cwd=self._cwd)

    def _on_process_ended(self, ended: asyncio.Future[ExitInfo]) -> None:
        if not ended.cancelled():
            exit_info = ended.result()
            self._set_ended(exit_info)
            # Children that outlived the kernel must not keep its ports and files.
            self._close_task = asyncio.create_task(self._end_sandbox(exit_info.description))

    async def _end_sandbox(self, reason: str | None) -> None:
        await end_one(partial(self._sandbox.aclose, reason))

    def _on_sandbox_ended(self, ended: asyncio.Future[ExitInfo]) -> None:
        if not ended.cancelled():
            self._set_ended(ended.result())

    def _set_ended(self, exit_info: ExitInfo) -> None:
        if not self.ended.done():
            self.ended.set_result(exit_info)

"""The provisioner: Jupyter's words for a process in a sandbox."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
from jupyter_client.kernelspec import KernelSpec

from era_kernels.errors import KernelStartFailed
from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.jupyter_provisioner import SandboxProvisioner
from tests.sandbox.sandboxes import ENV, forked_program, open_sandbox, shell_command


def with_provisioner(test: Callable[[SandboxProvisioner], Awaitable[None]]) -> None:
    """Run the body of a test with a provisioner on a sandbox."""

    async def body() -> None:
        async with open_sandbox() as sandbox:
            await test(SandboxProvisioner(sandbox))

    asyncio.run(body())


def test_before_the_launch_there_is_no_process() -> None:
    """Without a process nothing can be waited for, and signals go nowhere."""

    async def body(provisioner: SandboxProvisioner) -> None:
        assert not provisioner.has_process
        assert provisioner.process is None
        assert await provisioner.poll() == 0
        assert await provisioner.wait() == 0
        await provisioner.send_signal(signal.SIGINT)
        await provisioner.kill()
        with pytest.raises(RuntimeError):
            _ = provisioner.ended

    with_provisioner(body)


@pytest.mark.parametrize(("text", "code"), [("exit 7", 7), ("kill -9 $$", -9)])
def test_exit_codes_are_those_of_popen(text: str, code: int) -> None:
    """poll is None while the process runs; a signal is a negative number."""

    async def body(provisioner: SandboxProvisioner) -> None:
        info = await provisioner.launch_kernel(["/bin/sh", "-c", text], env=ENV, cwd="/")
        assert info == provisioner.connection_info
        assert await provisioner.wait() == code
        assert await provisioner.poll() == code
        assert not provisioner.has_process

    with_provisioner(body)


def test_a_command_may_be_given_whole() -> None:
    """The keyword `command` wins over the list of words: forked entries have none."""

    async def body(provisioner: SandboxProvisioner) -> None:
        await provisioner.launch_kernel([], command=forked_program("raise SystemExit(4)"))
        assert await provisioner.ended == ExitInfo(code=4)

    with_provisioner(body)


def test_signals_and_ends() -> None:
    """send_signal, terminate, kill and cleanup reach the process; `ended` tells how it went."""

    async def body(provisioner: SandboxProvisioner) -> None:
        for end, number in (
            (lambda: provisioner.send_signal(signal.SIGUSR1), signal.SIGUSR1),
            (provisioner.terminate, signal.SIGTERM),
            (provisioner.kill, signal.SIGKILL),
            (provisioner.cleanup, signal.SIGKILL),
        ):
            await provisioner.launch_kernel([], command=shell_command("sleep 600"))
            assert provisioner.has_process
            assert await provisioner.poll() is None
            await end()
            assert await asyncio.wait_for(provisioner.ended, 10) == ExitInfo(signal=number)

    with_provisioner(body)


def test_a_failed_start_is_told() -> None:
    """launch_kernel raises with the system's reason, and there is no process then."""

    async def body(provisioner: SandboxProvisioner) -> None:
        with pytest.raises(KernelStartFailed, match="No such file"):
            await provisioner.launch_kernel(["/does/not/exist"], env={}, cwd="/")
        assert not provisioner.has_process

    with_provisioner(body)


def test_an_environment_is_never_the_server_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """pre_launch starts from what it is given, else from nothing, and adds the kernelspec's."""
    monkeypatch.setenv("ERA_API_TOKENS", "very-secret-token")

    async def body(provisioner: SandboxProvisioner) -> None:
        assert await provisioner.pre_launch() == {"env": {}}
        provisioner.kernel_spec = KernelSpec(argv=["kernel", "-f"], env={"A": "1"}, language="x")
        told = await provisioner.pre_launch(env={"B": "2"}, extra_arguments=["--more"])
        assert told == {"cmd": ["kernel", "-f", "--more"], "env": {"A": "1", "B": "2"}}

    with_provisioner(body)

"""The process that forks kernels is started again, whatever kept it from starting before."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed, StartError
from era_kernels.sandbox.server.zygote_client import ZygoteClient
from era_kernels.sandbox.server.zygote_keeper import ZygoteKeeper


@pytest.mark.parametrize(
    "problem", [StartError("It is broken."), RuntimeError("can't start new thread"), OSError(28)]
)
async def test_a_start_that_fails_is_tried_again(
    problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers are told meanwhile, the loop goes on, and the next start works."""

    async def fail(*args: object) -> ZygoteClient:
        raise problem

    keeper = ZygoteKeeper(await ZygoteClient.start((), (), tmp_path), (), tmp_path, ())
    first = keeper.zygote
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ZygoteClient, "start", fail)
            os.kill(first.pid, signal.SIGKILL)
            await first.wait_dead()
            while keeper._error is None:
                await asyncio.sleep(0.01)
            with pytest.raises(KernelStartFailed):
                await keeper.ensure()
        while not keeper.zygote.is_alive:
            await asyncio.sleep(0.01)
        assert (await keeper.ensure()) is not first
    finally:
        await keeper.aclose()

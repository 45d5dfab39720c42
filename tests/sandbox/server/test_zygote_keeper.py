"""The process that forks kernels is started again, whatever kept it from starting before."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed, StartError
from era_kernels.sandbox.server.zygote_client import ZygoteClient
from era_kernels.sandbox.server.zygote_keeper import ZygoteKeeper
from tests.waiting import until


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
            await until(lambda: keeper._error is not None)
            with pytest.raises(KernelStartFailed):
                await keeper.ensure()
        await until(lambda: keeper.zygote.is_alive)
        assert (await keeper.ensure()) is not first
    finally:
        await keeper.aclose()

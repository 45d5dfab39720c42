"""The ladder: how a run that goes on is ended, rung by rung, and nothing else with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from era_kernels.kernels.run import Patience, Run
from era_kernels.models import Step


class Ladder:
    """Climbed once for one run, whoever asks for its end; all who ask learn the same steps.

    `interrupt` asks the program to stop, `wake` sends a message that wakes deaf kernels, `end` ends
    the machine: that comes `again + give_up` seconds after the first rung, whatever hangs.
    """

    def __init__(
        self,
        run: Run,
        patience: Patience,
        interrupt: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        self.steps: list[Step] = []
        self._run = run
        self._patience = patience
        self._interrupt = interrupt
        self._wake = wake
        self._end = end
        self._began = time.monotonic()

    async def climb(self) -> None:
        """Until the run is over, and no interrupt is on its way any more.

        Raises what interrupting raised, after the end of the machine.
        """
        confirmed = False
        try:
            async with asyncio.timeout(self._patience.again + self._patience.give_up):
                await self._rungs()
                confirmed = True
        except TimeoutError:
            return
        finally:
            # An interrupt that nobody confirmed could still arrive, and hit the next run.
            if not (self._run.over.done() and confirmed):
                self._note("end")
                await self._end()

    async def _rungs(self) -> None:
        await self._ask("interrupt")
        if await _ends_within(self._run, self._patience.again):
            return
        await self._ask("interrupt again")
        self._wake()
        await _ends_within(self._run, self._patience.give_up)

    async def _ask(self, action: str) -> None:
        """Interrupt, unless the program has ended and only its output is on the way."""
        if not self._run.done:
            self._note(action)
            await self._interrupt()

    def _note(self, action: str) -> None:
        self.steps.append(Step(action, time.monotonic() - self._began))


async def _ends_within(run: Run, seconds: float) -> bool:
    await asyncio.wait([run.over], timeout=seconds)
    return run.over.done()

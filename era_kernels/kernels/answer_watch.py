"""Notices a kernel that owes the answer to a run although no code of the program runs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from era_kernels.errors import KernelSilent
from era_kernels.kernels.active_run import ActiveRun
from era_kernels.kernels.channel_connection import ChannelConnection
from era_kernels.kernels.control_requests import ControlRequests

ASK_INTERVAL = 0.45  # seconds between two questions, and from the start of a run to the first
# Seconds for each character of the code before the first question: the kernel has to receive and
# compile it, which takes a tenth of this, and runs no code of the program meanwhile.
CODE_PATIENCE = 2e-6
ANSWER_TIMEOUT = 30.0  # seconds; C code may keep the kernel from answering
IDLE_ANSWERS = 3  # answers in a row that make a kernel one that owes the run's end


class AnswerWatch:
    """Asks a kernel on control, while a run is under way, whether code of the program runs.

    `on_owed` is called when it says no IDLE_ANSWERS times in a row, the run has neither reply nor
    fence, and nothing is sent meanwhile. A kernel that does not answer, or does not know the
    question, is left alone: its program may be in a long call that lets nothing else run. So is one
    whose output waits to be read. How long reply and fence wait for each other, ActiveRun knows.
    """

    def __init__(
        self,
        run: ActiveRun,
        iopub: ChannelConnection,
        requests: ControlRequests,
        on_owed: Callable[[], None],
    ) -> None:
        self._run = run
        self._iopub = iopub
        self._requests = requests
        self._on_owed = on_owed
        self._idle_answers = 0
        self._received_before = iopub.received_bytes
        self._question: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        patience = ASK_INTERVAL + CODE_PATIENCE * len(run.request.code)
        self._timer = self._loop.call_later(patience, self._ask)
        run.finished.add_done_callback(self._stop)

    def _stop(self, _: object) -> None:
        self._timer.cancel()
        if self._question is not None:
            self._question.cancel()

    def _ask(self) -> None:
        self._question = asyncio.create_task(self._ask_and_wait())

    async def _ask_and_wait(self) -> None:
        try:
            answer = await self._requests.request("activity_request", {}, ANSWER_TIMEOUT)
        except KernelSilent:
            self._idle_answers = 0
            if not self._run.finished.done():
                self._timer = self._loop.call_later(ASK_INTERVAL, self._ask)
            return
        received = self._iopub.received_bytes
        is_silent = received == self._received_before and not self._iopub.is_paused
        is_idle = answer.get("is_program_running") is False and is_silent
        self._idle_answers = self._idle_answers + 1 if is_idle else 0
        self._received_before = received
        if self._run.has_program_ended:
            return
        if self._idle_answers == IDLE_ANSWERS:
            self._on_owed()
        else:
            self._timer = self._loop.call_later(ASK_INTERVAL, self._ask)

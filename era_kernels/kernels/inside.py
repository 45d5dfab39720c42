"""What is asked of a kernel beside its runs: its stack, its variables, and answers to its input."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from era_kernels.errors import KernelSilent
from era_kernels.kernels import dumps, insights
from era_kernels.kernels.questions import Questions, Shared
from era_kernels.models import Frame, Request, Variables

STACK = 1.0  # seconds for which an answer is waited for, before a signal asks for the same
DUMP = 0.5  # seconds for which that may take, or the answer after all
VARIABLES = 2.0
INPUT = 2.0


class Inside:
    """The questions that a kernel is asked while it runs a program, and its answers.

    `stuck_signal` makes it write its stack to `dump` when it can do nothing else.
    """

    def __init__(
        self,
        questions: Questions,
        signal: Callable[[int], Awaitable[None]],
        dump: Path,
        stuck_signal: int | None,
    ) -> None:
        self._questions = questions
        self._signal = signal
        self._dump = dump
        self._stuck_signal = stuck_signal
        self._request: Request | None = None
        self._stack = Shared(self._ask_stack)
        self._variables = Shared(self._ask_variables)

    def runs(self, request: Request) -> None:
        """This is what the kernel runs now."""
        self._request = request

    async def stack(self) -> list[Frame]:
        """The calls that the program is in, innermost last. Raises KernelSilent."""
        return await self._stack.answer()

    async def _ask_stack(self) -> list[Frame]:
        asked = asyncio.create_task(self._questions.ask("stack_request", {}, STACK + DUMP))
        try:
            await asyncio.wait([asked], timeout=STACK)
            if not asked.done() and self._stuck_signal is not None:
                ask = partial(self._signal, self._stuck_signal)
                text = await dumps.dumped(self._dump, ask, DUMP)
                if text is not None and not asked.done():
                    return dumps.frames(text, self._sources())
            return insights.frames(await asked)
        finally:
            asked.cancel()

    async def variables(self) -> Variables:
        """The program's variables. Raises KernelSilent."""
        return await self._variables.answer()

    async def _ask_variables(self) -> Variables:
        return insights.variables(await self._questions.ask("variables_request", {}, VARIABLES))

    async def give_input(self, key: str, value: str) -> bool:
        """Answer a request for input. False: it does not wait any more."""
        try:
            content = {"key": key, "value": value}
            answer = await self._questions.ask("input_reply", content, INPUT)
        except KernelSilent:  # it has the answer, and takes it when it can
            return True
        return answer.get("taken") is not False

    def refuse_input(self, key: str) -> None:
        """Nobody answers: for the program it is the end of its input."""
        self._questions.tell("input_reply", {"key": key})

    def _sources(self) -> dict[str, list[str]]:
        """The source lines of the cell that runs, under its name in tracebacks."""
        if self._request is None:
            return {}
        return {f"<cell {self._request.number}>": self._request.code.splitlines()}

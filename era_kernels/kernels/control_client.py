"""What is asked of a kernel beside its runs: its stack, its variables, and answers to its input."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from era_kernels.errors import KernelSilent
from era_kernels.kernels import inspection_replies, stack_dump
from era_kernels.kernels.control_requests import ControlRequests, SingleFlight
from era_kernels.models import KernelRequest, StackFrame, Variables

STACK_TIMEOUT = 1.0  # seconds for which an answer is waited for, before a signal asks for the same
DUMP_TIMEOUT = 0.5  # seconds for which that may take, or the answer after all
VARIABLES_TIMEOUT = 2.0
INPUT_TIMEOUT = 2.0


class ControlClient:
    """The questions that a kernel is asked while it runs a program, and its answers.

    `dump_signal` makes it write its stack to `dump_file` when it can do nothing else.
    """

    def __init__(
        self,
        control_requests: ControlRequests,
        send_signal: Callable[[int], Awaitable[None]],
        dump_file: Path,
        dump_signal: int | None,
    ) -> None:
        self._control_requests = control_requests
        self._send_signal = send_signal
        self._dump_file = dump_file
        self._dump_signal = dump_signal
        self._running_request: KernelRequest | None = None
        self._shared_stack = SingleFlight(self._request_stack)
        self._shared_variables = SingleFlight(self._request_variables)

    def set_request(self, request: KernelRequest) -> None:
        """This is what the kernel runs now."""
        self._running_request = request

    async def stack(self) -> list[StackFrame]:
        """The calls that the program is in, innermost last. Raises KernelSilent."""
        return await self._shared_stack.run()

    async def _request_stack(self) -> list[StackFrame]:
        reply_task = asyncio.create_task(
            self._control_requests.request("stack_request", {}, STACK_TIMEOUT + DUMP_TIMEOUT)
        )
        try:
            await asyncio.wait([reply_task], timeout=STACK_TIMEOUT)
            if not reply_task.done() and self._dump_signal is not None:
                request_by_signal = partial(self._send_signal, self._dump_signal)
                text = await stack_dump.request_dump(
                    self._dump_file, request_by_signal, DUMP_TIMEOUT
                )
                if text is not None and not reply_task.done():
                    return stack_dump.parse_dump(text, self._sources())
            return inspection_replies.parse_frames(await reply_task)
        finally:
            reply_task.cancel()

    async def variables(self) -> Variables:
        """The program's variables. Raises KernelSilent."""
        return await self._shared_variables.run()

    async def _request_variables(self) -> Variables:
        return inspection_replies.parse_variables(
            await self._control_requests.request("variables_request", {}, VARIABLES_TIMEOUT)
        )

    async def send_input(self, key: str, value: str) -> bool:
        """Answer a request for input. False: it does not wait any more."""
        try:
            content = {"key": key, "value": value}
            reply = await self._control_requests.request("input_reply", content, INPUT_TIMEOUT)
        except KernelSilent:  # it has the answer, and takes it when it can
            return True
        return reply.get("taken") is not False

    def send_eof(self, key: str) -> None:
        """Nobody answers: for the program it is the end of its input."""
        self._control_requests.notify("input_reply", {"key": key})

    def _sources(self) -> dict[str, list[str]]:
        """The source lines of the cell that runs, under its name in tracebacks."""
        if self._running_request is None:
            return {}
        return {
            f"<cell {self._running_request.run_number}>": self._running_request.code.splitlines()
        }

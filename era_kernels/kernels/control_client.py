"""Asks a kernel beside its runs for its stack and variables, and sends it input."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from era_kernels.concurrency.single_flight import SingleFlight
from era_kernels.errors import KernelSilent
from era_kernels.kernels import inspection_replies, stack_dump
from era_kernels.kernels.control_requests import ControlRequests
from era_kernels.models import KernelRequest, StackFrame, Variables

STACK_TIMEOUT = 1.0  # seconds to wait for a reply, before a signal asks for the same
DUMP_TIMEOUT = 0.5  # seconds to wait after the signal for the dump, or for the reply after all
VARIABLES_TIMEOUT = 2.0
INPUT_TIMEOUT = 2.0


class ControlClient:
    """Sends the control requests of one kernel while it runs a program, and reads the replies.

    `dump_signal` makes the kernel write its stack to `dump_file` when it can do nothing else.
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
        """Sets the request that the kernel runs now."""
        self._running_request = request

    async def stack(self) -> list[StackFrame]:
        """Returns the calls that the program is in, innermost last. Raises KernelSilent."""
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
        """Returns the program's variables. Raises KernelSilent."""
        return await self._shared_variables.run()

    async def _request_variables(self) -> Variables:
        return inspection_replies.parse_variables(
            await self._control_requests.request("variables_request", {}, VARIABLES_TIMEOUT)
        )

    async def send_input(self, key: str, value: str) -> bool:
        """Answers a request for input. Returns False when the program does not wait any more."""
        try:
            content = {"key": key, "value": value}
            reply = await self._control_requests.request("input_reply", content, INPUT_TIMEOUT)
        except KernelSilent:  # the kernel has the answer, and takes it when it can
            return True
        return reply.get("taken") is not False

    def send_eof(self, key: str) -> None:
        """Ends the input of the program, because its request for input gets no answer."""
        self._control_requests.notify("input_reply", {"key": key})

    def _sources(self) -> dict[str, list[str]]:
        """Returns the source lines of the running code, by its file name in tracebacks."""
        if self._running_request is None:
            return {}
        return {
            f"<cell {self._running_request.run_number}>": self._running_request.code.splitlines()
        }

"""Hands the messages of comms to the program's callbacks, as a small run of their own.

What a callback prints belongs to the message that it was called for, and SIGINT interrupts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from era_kernel import run_context
from era_kernel.output_publisher import OutputPublisher
from era_kernel.run_context import RunContext

COMM_MESSAGES = frozenset({"comm_open", "comm_msg", "comm_close"})


class CommRequests:
    """Calls the comm manager, whatever its callbacks raise."""

    def __init__(
        self,
        manager: Any,
        output: OutputPublisher,
        call_interruptible: Callable[[Callable[[], object]], BaseException | None],
    ) -> None:
        self._handlers = {kind: getattr(manager, kind) for kind in COMM_MESSAGES}
        self._output = output
        self._call_interruptible = call_interruptible

    def handle(self, kind: str, identities: list[bytes], request: dict[str, Any]) -> None:
        """Handles one of COMM_MESSAGES, which have no reply."""
        previous = run_context.current()
        run = RunContext(request["header"], previous.number)
        run_context.set_current(run)
        try:
            self._call_interruptible(lambda: self._handlers[kind](None, identities, request))
        finally:
            self._output.finish_run(run)
            run_context.set_current(previous)

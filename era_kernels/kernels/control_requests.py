"""Sends requests on the control channel, which a kernel answers while it runs a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from era_kernels.errors import KernelSilent
from era_kernels.kernels.wire_protocol import Message
from era_kernels.models import JsonObject

RETRY_AFTER_SECONDS = 2
MAX_UNANSWERED = 1000  # messages; a program has fewer threads that could each ask for something

SendRequest = Callable[[str, JsonObject], str]


class ControlRequests:
    """Sends requests by `send`, which returns their ids, and gives each caller its reply."""

    def __init__(self, send: SendRequest) -> None:
        self._send = send
        self._pending: dict[str, asyncio.Future[JsonObject]] = {}
        self._unanswered: set[str] = set()

    async def request(self, msg_type: str, content: JsonObject, timeout: float) -> JsonObject:
        """Returns the reply's content. Raises KernelSilent when none comes in `timeout` seconds."""
        reply: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        request_id = ""
        try:
            request_id = self._send(msg_type, content)
            self._pending[request_id] = reply
            async with asyncio.timeout(timeout):
                return await reply
        except TimeoutError:
            raise _no_answer_error() from None
        finally:
            self._pending.pop(request_id, None)

    def notify(self, msg_type: str, content: JsonObject) -> None:
        """Sends a request without waiting for its reply.

        At most MAX_UNANSWERED of them are unanswered at a time, more are dropped: requests that a
        program provokes by the thousand must not fill the connection to its kernel.
        """
        if len(self._unanswered) < MAX_UNANSWERED:
            self._unanswered.add(self._send(msg_type, content))

    def on_message(self, message: Message) -> None:
        """Takes a message from control; a reply that no caller waits for is ignored."""
        self._unanswered.discard(message.parent_id)
        reply = self._pending.get(message.parent_id)
        if reply is not None and not reply.done():
            reply.set_result(message.content)

    def close(self) -> None:
        """Raises KernelSilent in all waiting callers: no reply comes any more."""
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(_no_answer_error())


def _no_answer_error() -> KernelSilent:
    return KernelSilent(
        "The kernel does not answer now.",
        hint="Its program may be in a long call that lets nothing else run.",
        retry_after=RETRY_AFTER_SECONDS,
    )

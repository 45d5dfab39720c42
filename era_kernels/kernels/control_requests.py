"""Requests on control, which a kernel answers while it runs a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from era_kernels.errors import KernelSilent
from era_kernels.kernels.wire_protocol import Message
from era_kernels.models import JsonObject

RETRY_AFTER_SECONDS = 2  # seconds
MAX_UNANSWERED = 1000  # messages; a program has fewer threads that could each ask for something

T = TypeVar("T")
SendRequest = Callable[[str, JsonObject], str]


class ControlRequests:
    """Sends requests by `send`, which gives their ids, and hands each its answer."""

    def __init__(self, send: SendRequest) -> None:
        self._send = send
        self._pending: dict[str, asyncio.Future[JsonObject]] = {}
        self._unanswered: set[str] = set()

    async def request(self, msg_type: str, content: JsonObject, timeout: float) -> JsonObject:
        """The answer's content. Raises KernelSilent when there is none after so many seconds."""
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
        """Send what nobody waits for to be answered.

        At most MAX_UNANSWERED at a time: what a program provokes by the thousand must not fill the
        way to its kernel.
        """
        if len(self._unanswered) < MAX_UNANSWERED:
            self._unanswered.add(self._send(msg_type, content))

    def on_message(self, message: Message) -> None:
        """What came on control; answers that nobody waits for are of no interest."""
        self._unanswered.discard(message.parent_id)
        reply = self._pending.get(message.parent_id)
        if reply is not None and not reply.done():
            reply.set_result(message.content)

    def close(self) -> None:
        """Nothing comes any more: whoever waits is told so."""
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(_no_answer_error())


class SingleFlight(Generic[T]):
    """A question that any number of callers share: who asks while it is asked waits for the same.

    So at most one is on its way to the kernel.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._start = start
        self._task: asyncio.Task[T] | None = None

    async def run(self) -> T:
        """Raises what asking raises."""
        if self._task is None:
            self._task = asyncio.create_task(self._start())
            self._task.add_done_callback(self._on_done)
        return await asyncio.shield(self._task)

    def _on_done(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # each of those who asked has seen it


def _no_answer_error() -> KernelSilent:
    return KernelSilent(
        "The kernel does not answer now.",
        hint="Its program may be in a long call that lets nothing else run.",
        retry_after=RETRY_AFTER_SECONDS,
    )

"""Requests on control, which a kernel answers while it runs a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from era_kernels.errors import KernelSilent
from era_kernels.kernels.wire import Message
from era_kernels.models import JsonObject

RETRY_AFTER = 2  # seconds
TOLD = 1000  # messages; a program has fewer threads that could each ask for something

T = TypeVar("T")
Send = Callable[[str, JsonObject], str]


class Questions:
    """Sends requests by `send`, which gives their ids, and hands each its answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open: dict[str, asyncio.Future[JsonObject]] = {}
        self._told: set[str] = set()

    async def ask(self, kind: str, content: JsonObject, seconds: float) -> JsonObject:
        """The answer's content. Raises KernelSilent when there is none after so many seconds."""
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        request = ""
        try:
            request = self._send(kind, content)
            self._open[request] = answer
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise _silent() from None
        finally:
            self._open.pop(request, None)

    def tell(self, kind: str, content: JsonObject) -> None:
        """Send what nobody waits for to be answered.

        Not past TOLD that are unanswered: what a program provokes by the thousand must not fill the
        way to its kernel.
        """
        if len(self._told) < TOLD:
            self._told.add(self._send(kind, content))

    def on_message(self, message: Message) -> None:
        """What came on control; answers that nobody waits for are of no interest."""
        self._told.discard(message.parent)
        answer = self._open.get(message.parent)
        if answer is not None and not answer.done():
            answer.set_result(message.content)

    def close(self) -> None:
        """Nothing comes any more: whoever waits is told so."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(_silent())


class Shared(Generic[T]):
    """A question that any number of callers share: who asks while it is asked waits for the same.

    So at most one is on its way to the kernel.
    """

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._ask = ask
        self._task: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """Raises what asking raises."""
        if self._task is None:
            self._task = asyncio.create_task(self._ask())
            self._task.add_done_callback(self._on_done)
        return await asyncio.shield(self._task)

    def _on_done(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # each of those who asked has seen it


def _silent() -> KernelSilent:
    return KernelSilent(
        "The kernel does not answer now.",
        hint="Its program may be in a long call that lets nothing else run.",
        retry_after=RETRY_AFTER,
    )

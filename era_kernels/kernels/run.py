"""One run on its way: what has come, what is missing, and when it is over.

A run is over when its reply and its fence are here; or when its machine has ended; or when one of
the two stays away for too long, which ends the machine. Until then its output is handed on in
batches, and while more than HELD_BYTES of it wait for a slow consumer, the kernel is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from era_kernels.kernels.channels import Channel
from era_kernels.kernels.messages import Reply
from era_kernels.models import Ending, Finished, Output, Reason, Request, Stderr, Stdout

if TYPE_CHECKING:
    from era_kernels.kernels.ladder import Ladder

HELD_BYTES = 1024 * 1024
EVENT_COST = 200  # what an event costs beside its content, in bytes
SILENT = "the kernel stopped answering"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a kernel is waited for, in seconds."""

    probe: float = 0.2  # between two questions whether a new kernel is there
    welcome: float = 0.02  # the same when it has answered, but its output is not heard yet
    again: float = 0.5  # from the first interrupt to the second
    give_up: float = 2.5  # from the second interrupt to the end of the machine
    missing: float = (
        10.0  # for a fence after its reply, with no output; for a reply after its fence
    )
    missing_most: float = 300.0  # for a fence after its reply, while output arrives
    farewell: float = 5.0  # for the end of a process that has closed its sockets
    drain: float = 0.05  # of silence on iopub after the process has ended
    drain_most: float = 2.0  # for the same when there is no silence: a child may hold the socket


class Quiet:
    """Calls `then` when nothing was noted for `seconds`; while `held()`, time stands still."""

    def __init__(
        self, seconds: float, then: Callable[[], None], held: Callable[[], bool] = lambda: False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._then = then
        self._held = held
        self._since = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._look)

    def note(self) -> None:
        """Something happened: the time starts anew."""
        self._since = self._loop.time()

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._held():
            self.note()
        rest = self._since + self._seconds - self._loop.time()
        if rest > 0:
            self._timer = self._loop.call_later(rest, self._look)
        else:
            self._then()


class Run:
    """The state of one execute_request, and the hand-off between its reader and its consumer."""

    def __init__(
        self,
        request: Request,
        nonce: str,
        iopub: Channel,
        patience: Patience,
        give_up: Callable[[str], None],
    ) -> None:
        self.request = request
        self.id = ""  # of the message, which is sent when the run is ready to take its answers
        self.nonce = nonce
        # Who set the ladder up: the deadline, or somebody who wants the run to end.
        self.timed_out = self.interrupted = False
        self.ladder: tuple[Ladder, asyncio.Task[None]] | None = None
        self.over: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._iopub = iopub
        self._patience = patience
        self._give_up = give_up
        self._reply: Reply | None = None
        self._fenced = False
        self._ending: Ending | None = None
        self._silence: Quiet | None = None
        self._limit: Quiet | None = None
        self._abandoned = False
        self._last_words: Callable[[], str] = str
        self._waiting: list[Output] = []
        self._size = 0
        self._news = asyncio.Event()

    # ------------------------------------------------------------ what comes from the kernel

    @property
    def done(self) -> bool:
        """The program has ended, or its process has: there is nothing to interrupt any more."""
        return self._reply is not None or self._fenced or self._ending is not None

    def takes(self, parent: str) -> bool:
        """Output with that parent belongs to this run, and somebody wants it."""
        return (
            parent == self.id and not self._abandoned and not self._fenced and not self.over.done()
        )

    def put(self, event: Output, size: int) -> None:
        """Take an output that cost `size` bytes on the wire."""
        self._waiting.append(event)
        self._size += size + EVENT_COST
        self._news.set()
        if self._silence is not None:
            self._silence.note()
        if self._size > HELD_BYTES:
            self._iopub.pause()

    def replied(self, reply: Reply) -> None:
        """The reply is here. Only the first counts."""
        if self._reply is None:
            self._reply = reply
            # No deadline holds any more, and code that forged the reply may print for ever.
            self._bound(self._patience.missing_most, self._miss)
            self._next()

    def fence(self) -> None:
        """All output of the run is here. Only the first counts: another is no sign of life."""
        if not self._fenced:
            self._fenced = True
            self._next()

    def ended(self, ending: Ending, last_words: Callable[[], str] = str) -> None:
        """The machine has ended. What the process wrote before its end is still on its way.

        `last_words` are those past any protocol, to be asked for when all else is here.
        """
        if self.over.done():
            return
        self._ending = ending
        if not ending.ordered:
            self._last_words = last_words
        if ending.reason is not None or self._fenced or self._iopub.closed:
            self._finish()
            return
        self._wait(self._patience.drain, self._finish)
        self._bound(self._patience.drain_most, self._finish)

    def cut_off(self) -> None:
        """Nothing more can come; it matters when the machine has ended."""
        if self._ending is not None:
            self._finish()

    def _next(self) -> None:
        if self._fenced and (self._reply is not None or self._ending is not None):
            self._finish()
        elif self._ending is None:
            self._wait(self._patience.missing, self._miss)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._silence = Quiet(seconds, then, self._held)

    def _bound(self, seconds: float, then: Callable[[], None]) -> None:
        """The same, but output does not start the time anew."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = Quiet(seconds, then, self._held)

    def _miss(self) -> None:
        self._give_up(SILENT)

    def _held(self) -> bool:
        return self._iopub.paused

    def _finish(self) -> None:
        for timer in (self._silence, self._limit):
            if timer is not None:
                timer.cancel()
        if not self.over.done():
            if words := self._last_words():
                self._waiting.append(Stderr(words))
            self.over.set_result(self._outcome())
            self._news.set()

    def _outcome(self) -> Finished:
        if self._ending is not None:
            code = self._ending.exit_code
            if self.timed_out or self._ending.reason == Reason.INTERRUPTED:
                code = 124 if self.timed_out else 130
            return Finished(
                code,
                state="lost",
                ending=self._ending,
                timed_out=self.timed_out,
                interrupted=self.interrupted,
            )
        if self.timed_out or self._reply is None:
            # The exception, if any, is our interrupt and not the program's own.
            return Finished(124, timed_out=True)
        reply = self._reply
        return Finished(reply.exit_code, reply.exception, interrupted=self.interrupted)

    # ------------------------------------------------------------ what goes to the consumer

    async def batches(self) -> AsyncGenerator[list[Output | Finished], None]:
        """All output since the last batch, in order; at last the `Finished`."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                batch = self._take()
                if self.over.done():
                    yield [*batch, self.over.result()]
                    return
                yield batch
        finally:
            self._abandoned = True
            self._take()

    def _take(self) -> list[Output | Finished]:
        batch = merged(self._waiting)
        self._waiting, self._size = [], 0
        self._iopub.resume()
        return batch


def merged(events: Iterable[Output]) -> list[Output | Finished]:
    """The same events with neighbouring texts of one stream made one."""
    found: list[Output | Finished] = []
    for kind, group in groupby(events, key=type):
        if kind is Stdout or kind is Stderr:
            found.append(kind("".join(event.content for event in group)))  # type: ignore
        else:
            found.extend(group)
    return found

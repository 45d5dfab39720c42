"""A program beside the kernel: what it prints becomes events, how it ends the last of them.

It is the leader of a process group. Its two outputs are pipes: what a slow consumer has not taken
makes it wait. It is over when its own process is; children that still hold the pipes are heard for
a moment, and may go on.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from era_kernels.models import Ending, Finished, Output, Reason, Stderr, Stdout, Step
from era_kernels.sandbox.process import Process

log = logging.getLogger(__name__)

NOT_FOUND = 127  # what shells report of a program that is not there
NOT_EXECUTABLE = 126  # and of one that cannot be run


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a program is waited for, in seconds."""

    tick: float = 0.02  # between two batches of its output
    again: float = 0.5  # from the first interrupt to the second; at its deadline to the end
    give_up: float = 2.5  # from the second interrupt to the end
    killed: float = 5.0  # from the end to that of the whole machine
    drain: float = 0.05  # of silence after its end, while children hold its outputs
    drain_most: float = 0.5  # for the same when there is no silence


class Around(Protocol):
    """What a program needs of the machine that it runs in."""

    @property
    def standing(self) -> bool:
        """Whether programs can run in it."""

    async def fate(self) -> Ending:
        """How it ended, in words for programs that ended with it."""

    async def aclose(self, reason: str | None = None) -> None:
        """End everything in the machine."""


class Program:
    """One program that runs."""

    def __init__(
        self,
        process: Process,
        news: asyncio.Event,
        machine: Around,
        late: Callable[[list[Output]], None],
        patience: Patience | None = None,
    ) -> None:
        """`news` is what the process was started with.

        `late` is called with what those print whom it has left behind.
        """
        self._process = process
        self._news = news
        self._machine = machine
        self._late = late
        self._patience = patience or Patience()
        self._ended = process.ended
        self._ended.add_done_callback(lambda _: news.set())
        self._streams = (
            (process.stdout, Stdout, _decoder()),
            (process.stderr, Stderr, _decoder()),
        )
        self._reason: str | None = None  # why we killed it
        self._timed_out = False
        self._climbing: asyncio.Task[list[Step]] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def events(self, timeout: float) -> AsyncGenerator[list[Output | Finished], None]:
        """Batches of output as they come, the last item of the last one is `Finished`.

        Past `timeout` seconds it is ended. What it or its children print when the consumer has
        left is `late`.
        """
        deadline = asyncio.get_running_loop().call_later(timeout, self._on_deadline)
        try:
            while self._process.running:
                await self._news.wait()
                self._news.clear()
                if batch := self._taken():
                    yield batch
                    await asyncio.wait([self._ended], timeout=self._patience.tick)
            deadline.cancel()
            await self._drain()
            yield [*self._taken(final=True), await self._finished()]
        finally:
            deadline.cancel()
            for stream, kind, _ in self._streams:
                stream.leave(partial(self._hand_on, kind, _decoder()))

    async def interrupt(self) -> list[Step]:
        """Interrupt it, again where it does not listen, and then kill it; what that took.

        Whoever asks meanwhile waits for the same steps. It is over soon after this.
        """
        if self._climbing is None:
            self._climbing = asyncio.create_task(self._climb())
        return await asyncio.shield(self._climbing)

    async def end(self, reason: str) -> None:
        """Kill its process group; where even that does not help, the machine."""
        self._reason = self._reason or reason
        await self._process.signal(signal.SIGKILL)
        if not await self._ends_within(self._patience.killed):
            log.error("a program could not be ended", extra={"why": reason})
            await self._machine.aclose(reason)

    # ------------------------------------------------------------ its output

    def _taken(self, final: bool = False) -> list[Output | Finished]:
        batch: list[Output | Finished] = []
        for stream, kind, decoder in self._streams:
            if text := decoder.decode(stream.take(), final):
                batch.append(kind(text))
        return batch

    def _hand_on(
        self, kind: type[Stdout | Stderr], decoder: codecs.IncrementalDecoder, chunk: bytes
    ) -> None:
        if text := decoder.decode(chunk):
            self._late([kind(text)])

    async def _drain(self) -> None:
        """What it wrote is here; its last children may have something to add."""
        limit = asyncio.get_running_loop().time() + self._patience.drain_most
        self._news.clear()
        while any(stream.open for stream, _, _ in self._streams):
            if asyncio.get_running_loop().time() > limit:
                return
            try:
                await asyncio.wait_for(self._news.wait(), self._patience.drain)
            except TimeoutError:
                return
            self._news.clear()

    # ------------------------------------------------------------ its end

    def _on_deadline(self) -> None:
        if self._process.running:
            self._timed_out = True
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """At the deadline: nothing of its process group goes on."""
        await self._process.signal(signal.SIGINT, sweep=True)
        if not await self._ends_within(self._patience.again):
            await self.end(Reason.TIMEOUT)

    async def _climb(self) -> list[Step]:
        began = asyncio.get_running_loop().time()
        steps: list[Step] = []
        for action, patience in (
            ("interrupt", self._patience.again),
            ("interrupt again", self._patience.give_up),
        ):
            steps.append(Step(action, asyncio.get_running_loop().time() - began))
            await self._process.signal(signal.SIGINT)
            if await self._ends_within(patience):
                return steps
        steps.append(Step("end", asyncio.get_running_loop().time() - began))
        await self.end(Reason.INTERRUPTED)
        return steps

    async def _ends_within(self, seconds: float) -> bool:
        await asyncio.wait([self._ended], timeout=seconds)
        return self._ended.done()

    async def _finished(self) -> Finished:
        ending = await asyncio.shield(self._ended)
        state = "preserved"
        if not self._machine.standing:
            state = "lost"
            if ending.code is None:
                ending = await self._machine.fate()
        elif ending.signal == signal.SIGKILL and self._reason is not None:
            ending = Ending(reason=self._reason)
        told = ending if ending.code is None else None
        code = 130 if ending.reason == Reason.INTERRUPTED else ending.exit_code
        return Finished(
            124 if self._timed_out else code,
            state=state,
            ending=told,
            timed_out=self._timed_out,
            interrupted=self._climbing is not None,
        )


class Unstarted:
    """A program that never ran, as a shell would tell of it: its words, and its end."""

    def __init__(self, finished: Finished, words: str = "") -> None:
        self._finished = finished
        self._words = words

    @classmethod
    def refused(cls, name: str, reason: str, number: int) -> Unstarted:
        """The system said no, with that errno."""
        code = NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
        if number and reason.endswith(name):  # the place where it was looked for last
            reason = os.strerror(number)
        return cls(Finished(code), f"{name}: {reason}\n")

    async def events(self, timeout: float) -> AsyncGenerator[list[Output | Finished], None]:
        """All there is to tell."""
        words: list[Output | Finished] = [Stderr(self._words)] if self._words else []
        yield [*words, self._finished]

    async def interrupt(self) -> list[Step]:
        """There is nothing to interrupt."""
        return []

    async def end(self, reason: str) -> None:
        """It has ended."""


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")

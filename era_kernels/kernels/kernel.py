"""One running interpreter and its connection: asked to run code, interrupted, listened to."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Literal, Protocol

from era_kernels.errors import KernelStartFailed
from era_kernels.kernels import messages
from era_kernels.kernels.channels import LOST, Channels
from era_kernels.kernels.inside import Inside
from era_kernels.kernels.ladder import Ladder
from era_kernels.kernels.questions import Questions
from era_kernels.kernels.run import Patience, Quiet, Run
from era_kernels.kernels.unfinished import Unfinished
from era_kernels.kernels.wire import Connection, Message
from era_kernels.models import (
    Ending,
    Finished,
    InputRequest,
    JsonObject,
    Output,
    Reason,
    Request,
    Stderr,
    Step,
)

log = logging.getLogger(__name__)

InterruptMode = Literal["signal", "message"]


class Keeper(Protocol):
    """What a kernel needs of the machine that it runs in."""

    ended: asyncio.Future[Ending]

    async def signal(self, number: int) -> None:
        """Send a signal to the kernel's process group; nothing when it has ended."""

    async def aclose(self, reason: str | None = None) -> None:
        """End everything in the machine; `ended` tells the reason at once."""

    def last_words(self) -> str:
        """What the process wrote to its own stderr since this was asked last; bounded."""


class Kernel:
    """A kernel's side that faces the server. It runs one request at a time.

    `late` is called with output that belongs to no run of now: what threads, old children and
    timers print afterwards, and what an abandoned run still prints; at last with how the kernel
    ended when no run tells. `closed` is done when nothing more is heard of it.
    """

    def __init__(
        self,
        connection: Connection,
        keeper: Keeper,
        interrupt_mode: InterruptMode = "signal",
        patience: Patience | None = None,
        stuck_signal: int | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        self.late: Callable[[list[Output]], None] = forget
        self._keeper = keeper
        self._interrupt_mode = interrupt_mode
        self._patience = patience or Patience()
        self._run: Run | None = None
        self._chores: set[asyncio.Task[None]] = set()  # ladders and ends that are under way
        self._parting: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._silence: Quiet | None = None  # after the end, while late output is on its way
        self._answered = False  # on shell
        self._heard = False  # on iopub
        self._ready = asyncio.Event()
        self._questions = Questions(self._request_control)
        self._channels = Channels(
            connection,
            self._on_shell,
            self._on_iopub,
            self._questions.on_message,
            self._on_stdin,
            self._on_broken,
            unfinished,
        )
        dump = (connection.dump, stuck_signal)
        self.inside = Inside(self._questions, keeper.signal, *dump)
        keeper.ended.add_done_callback(self._on_ended)

    @property
    def dropped(self) -> int:
        """Messages that made no sense."""
        return self._channels.dropped

    async def wait_ready(self, timeout: float) -> None:
        """Until the kernel answers on shell and is heard on iopub.

        Raises KernelStartFailed when it ends before, or is not there after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._ready.is_set():
                    self._ask()
                    await _set_within(self._ready, self._patience.probe)
        except TimeoutError as error:
            raise KernelStartFailed(
                f"The kernel was not ready within {timeout:g} seconds."
            ) from error
        if self._keeper.ended.done():
            cause = self._keeper.ended.result().cause
            raise KernelStartFailed(f"The kernel ended before it was ready: {cause}.")

    async def execute(self, request: Request) -> AsyncGenerator[list[Output | Finished], None]:
        """Run it; batches of output as they come, the last item of the last one is `Finished`.

        A kernel that has ended, or ends meanwhile, is told by `Finished`, not raised. A consumer
        that leaves early abandons the run: it goes on in the kernel until it ends by itself, is
        interrupted or reaches its deadline, its output is `late`, and the next request waits for
        it. To end it sooner is up to the caller.
        """
        while self._run is not None and not self._run.over.done():
            await asyncio.wait([self._run.over])
        if self._keeper.ended.done():
            ending = self._keeper.ended.result()
            yield [Finished(ending.exit_code, state="lost", ending=ending)]
            return
        run = self._run = self._start(request)
        async with aclosing(run.batches()) as batches:
            async for batch in batches:
                if run.over.done():
                    await self._settle()
                yield batch

    async def interrupt(self) -> None:
        """Ask the running program to stop, as the kernelspec says; once, without any promise."""
        if self._interrupt_mode == "signal":
            await self._keeper.signal(signal.SIGINT)
        else:
            self._request_control("interrupt_request", {})

    async def stop(self, request: Request) -> Sequence[Step]:
        """End the run of that request, and no other, by the ladder; what that took.

        Returns when it is over: interrupted, or ended with its machine. Where its deadline came
        first, or somebody else, their ladder is shared. Nothing when it is over, or not there yet.
        """
        run = self._run
        if run is None or run.request is not request or run.over.done():
            return []
        if run.ladder is None:
            run.interrupted = True
            run.ladder = self._climb(run, Reason.INTERRUPTED)
        ladder, climbing = run.ladder
        both: set[asyncio.Future[Any]] = {climbing, run.over}
        await asyncio.wait(both)
        return ladder.steps

    # ------------------------------------------------------------ what goes to the kernel

    def _start(self, request: Request) -> Run:
        self.inside.runs(request)
        self._keeper.last_words()  # of before, which are not the run's
        run = Run(
            request, secrets.token_hex(16), self._channels.iopub, self._patience, self._give_up
        )
        content: JsonObject = {
            "code": request.code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        era = {"nonce": run.nonce, "number": request.number, "env": dict(request.env)}
        run.id = self._channels.request(
            self._channels.shell, "execute_request", content, {"era": era}
        )
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(request.timeout, self._on_deadline, run)
        run.over.add_done_callback(lambda _: deadline.cancel())
        return run

    def _request_control(self, kind: str, content: JsonObject) -> str:
        return self._channels.request(self._channels.control, kind, content)

    def _ask(self) -> None:
        self._channels.request(self._channels.shell, "kernel_info_request", {})

    # ------------------------------------------------------------ what comes from the kernel

    def _on_shell(self, message: Message) -> None:
        run = self._run
        if message.kind == "kernel_info_reply":
            self._on_answer()
        elif run is not None and message.kind == "execute_reply" and message.parent == run.id:
            reply = messages.reply(message.content)
            if reply is None:
                self._channels.drop("a reply has the wrong shape")
            else:
                run.replied(reply)

    def _on_stdin(self, message: Message) -> None:
        """Nobody answers: programs ask by iopub, in order with their output."""

    def _on_iopub(self, message: Message) -> None:
        if not self._ready.is_set():
            self._on_heard()
        run = self._run
        nonce = messages.fence(message.kind, message.content)
        if nonce is not None:
            if run is not None and nonce == run.nonce:
                run.fence()
        elif messages.is_output(message.kind):
            self._on_output(message)

    def _on_output(self, message: Message) -> None:
        event = messages.event(message.kind, message.content)
        if event is None:
            self._channels.drop("an output has the wrong shape")
        elif self._run is not None and self._run.takes(message.parent):
            self._run.put(event, message.size)
        elif isinstance(event, InputRequest):
            self.inside.refuse_input(event.key)  # nobody follows what is left of a run
        else:
            if self._silence is not None:
                self._silence.note()
            self.late([event])

    def _on_answer(self) -> None:
        self._answered = True
        if self._heard:
            self._ready.set()
        elif not self._ready.is_set():
            # It subscribed us later than it answered. The next answer makes noise on iopub.
            asyncio.get_running_loop().call_later(self._patience.welcome, self._ask)

    def _on_heard(self) -> None:
        self._heard = True
        if self._answered:
            self._ready.set()

    # ------------------------------------------------------------ how runs end

    def _on_deadline(self, run: Run) -> None:
        if not run.done and run.ladder is None:
            run.timed_out = True
            run.ladder = self._climb(run, Reason.TIMEOUT)

    def _climb(self, run: Run, reason: Reason) -> tuple[Ladder, asyncio.Task[None]]:
        async def end() -> None:
            await self._keeper.aclose(reason)

        ladder = Ladder(run, self._patience, self.interrupt, self._ask, end)
        return ladder, self._spawn(ladder.climb())

    def _give_up(self, reason: str) -> None:
        self._spawn(self._keeper.aclose(reason))

    def _on_ended(self, ended: asyncio.Future[Ending]) -> None:
        self._questions.close()
        run, ending = self._run, ended.result()
        if run is not None and not run.over.done():
            run.ended(ending, self._keeper.last_words)
            run.over.add_done_callback(lambda _: self._close())
        elif not self._ready.is_set() or ending.ordered:
            self._close()
        else:
            self._silence = Quiet(self._patience.drain, self._bury)
            if self._channels.iopub.closed:
                self._bury()
            asyncio.get_running_loop().call_later(self._patience.drain_most, self._bury)
        self._ready.set()

    def _on_broken(self, reason: str) -> None:
        if self._channels.iopub.closed:
            self._on_all_heard()
        self._parting = asyncio.create_task(self._part(reason))
        self._parting.add_done_callback(self._on_chore_done)

    async def _part(self, reason: str) -> None:
        """End what cannot be talked to any more; a process that is just ending by itself may.

        It closes its sockets before it ends, and the one with its last words when we have them.
        """
        iopub, ended = self._channels.iopub, self._keeper.ended
        while reason == LOST and not ended.done():
            before = iopub.received
            await asyncio.wait([ended], timeout=self._patience.farewell)
            if iopub.received == before and not iopub.paused:
                break
        if not ended.done():
            log.warning("the connection to a kernel was lost", extra={"why": reason})
            await self._keeper.aclose(reason)

    def _on_all_heard(self) -> None:
        """Nothing comes on iopub any more, so nobody has to wait whether something does."""
        if self._run is not None:
            self._run.cut_off()
        if self._silence is not None:
            self._bury()

    def _bury(self) -> None:
        """It ended in no run, and what it said before has been heard: so the log tells of it."""
        if not self.closed.done():
            cause = self._keeper.ended.result().cause
            told = f"{self._keeper.last_words()}The kernel's process ended: {cause}.\n"
            self.late([Stderr(told)])
            self._close()

    def _close(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._channels.close()
        if not self.closed.done():
            self.closed.set_result(None)

    async def _settle(self) -> None:
        """Wait for ladders: an interrupt that is on its way must not hit the next run."""
        if self._chores:
            await asyncio.wait(self._chores)

    def _spawn(self, chore: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._on_chore_done)
        return task

    def _on_chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a kernel could not be stopped", exc_info=task.exception())


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def forget(late: list[Output]) -> None:
    """Output that nobody asked for."""

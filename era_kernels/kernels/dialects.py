"""Reads the messages of kernels: of those that send a fence, and of those that only know Jupyter.

A fence is behind all output of a run, in the same queue (see `messages`). A kernel without one is
said to have ended a run when it has replied and is idle: what it prints afterwards, or what its
threads print, belongs to no run that can be told for sure.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from era_kernels.kernels import message_events
from era_kernels.kernels.active_run import ActiveRun
from era_kernels.kernels.wire_protocol import Message
from era_kernels.models import ExecutionEnd, Output, Stderr

EXIT_INTERRUPTED = 130
REFUSED = "[era] the kernel refused to run this\n"


class JupyterRun(ActiveRun):
    """Keeps the state of a run that ends when the kernel has replied and is idle.

    Some kernels are idle before their output has come: it is taken until they have replied, and the
    run's time goes on. Some tell of an exception in the reply alone: its text is put on stderr, if
    nothing else is there.
    """

    _has_output = _has_stderr = False
    _refused_until: float | None = None

    @property
    def has_program_ended(self) -> bool:
        # Idle alone, which code can forge, ends neither the output nor what the deadline is for.
        return self._reply is not None or self._exit_info is not None

    def take_back(self, reply: message_events.Reply) -> bool:
        """Takes back the request of a run that the kernel refused; returns whether to ask again.

        Some kernels refuse what comes shortly after a run that failed, whatever `stop_on_error`
        says. Nothing of this run has happened then.
        """
        now = asyncio.get_running_loop().time()
        if self._refused_until is None:
            self._refused_until = now + self._timeouts.max_refused
        if not reply.is_refusal or self.interrupted or self.timed_out:
            return False
        if self._has_output or self._exit_info is not None or now > self._refused_until:
            return False
        # What still comes of it ends nothing. Nobody can know the id that it has until it is asked
        # for again: further refusals would have it asked for as often.
        self.msg_id, self._has_fence = secrets.token_hex(16), False
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        return True

    def accepts(self, parent_id: str) -> bool:
        is_own = parent_id == self.msg_id
        return is_own and not self._is_abandoned and not self.finished.done()

    def _check_complete(self) -> None:
        is_complete = self._has_fence and self._reply is not None and self._exit_info is None
        if is_complete and self._timeouts.settle:
            self._start_idle_timer(self._timeouts.settle, self._finish)
            self._start_limit_timer(self._timeouts.max_settle, self._finish)
        else:
            super()._check_complete()

    def add_output(self, event: Output, size: int) -> None:
        self._has_output = True
        self._has_stderr = self._has_stderr or isinstance(event, Stderr)
        super().add_output(event, size)

    def _make_finished(self) -> ExecutionEnd:
        end = super()._make_finished()
        is_refused = self._reply is not None and self._reply.is_refusal and not self._has_output
        if is_refused and not (end.timed_out or end.interrupted):
            self._pending.append(Stderr(REFUSED))
        if end.exception is not None and not self._has_stderr:
            self._pending.append(Stderr(message_events.exception_text(end.exception)))
        if end.interrupted and end.exit_info is None and end.exit_code:
            return replace(end, exit_code=EXIT_INTERRUPTED)
        return end


class FenceDialect:
    """Reads the messages of a kernel that sends a fence, as those of this project do."""

    # Whether the kernel answers requests on control that are ours alone.
    answers_own_requests = True
    run_class: type[ActiveRun] = ActiveRun

    def ends_output(self, message: Message, run: ActiveRun) -> bool:
        """Returns whether all output of the run has arrived with this message."""
        return message_events.fence_nonce(message.msg_type, message.content) == run.nonce

    def takes_back(self, run: ActiveRun, reply: message_events.Reply) -> bool:
        """Returns whether the run is to be asked for again, for the kernel refused it."""
        return isinstance(run, JupyterRun) and run.take_back(reply)

    def is_output(self, message: Message) -> bool:
        """Returns whether a message of this type stands for an event when it is well-formed."""
        is_fence = message_events.fence_nonce(message.msg_type, message.content) is not None
        return message_events.is_output(message.msg_type) and not is_fence

    def to_event(self, message: Message) -> Output | None:
        """Returns the event that an output stands for, None when it has the wrong shape."""
        return message_events.to_event(message.msg_type, message.content)


class JupyterDialect(FenceDialect):
    """Reads the messages of a kernel that knows the Jupyter messaging specification, and no more.

    Its `error` messages are what a terminal would show on stderr.
    """

    answers_own_requests = False
    run_class = JupyterRun

    def ends_output(self, message: Message, run: ActiveRun) -> bool:
        is_idle = message.content.get("execution_state") == "idle"
        return message.msg_type == "status" and is_idle and message.parent_id == run.msg_id

    def is_output(self, message: Message) -> bool:
        if message.msg_type == "input_request":  # on iopub it is ours alone
            return False
        return message.msg_type == "error" or message_events.is_output(message.msg_type)

    def to_event(self, message: Message) -> Output | None:
        if message.msg_type != "error":
            return message_events.to_event(message.msg_type, message.content)
        text = message_events.error_text(message.content)
        return None if text is None else Stderr(text)

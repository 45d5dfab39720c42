"""Records how an execution ended: in its log, for its readers, in the index and the metrics."""

from __future__ import annotations

import logging

from era_kernels.errors import EraError
from era_kernels.models import (
    NO_FILES_CHANGED,
    Event,
    ExecutionEnd,
    FilesChanged,
    Session,
    Stderr,
    server_line,
)
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.notices import (
    LOSES_FILES_TOO,
    LOSES_NOTHING,
    LOSES_VARIABLES,
    describe_end,
)
from era_kernels.services.executions.outcome import Timing, done_event, error_event, metric_label

log = logging.getLogger(__name__)


class ExecutionFinisher:
    """Ends executions, in every case, so that no caller waits for ever."""

    def __init__(self, context: ServiceContext, *, is_stored: bool) -> None:
        """Takes `is_stored`: False for a throw-away session, of which nothing is kept anyway."""
        self._context = context
        self._is_stored = is_stored

    async def finish(
        self,
        execution: LiveExecution,
        end: ExecutionEnd,
        timing: Timing,
        session: Session,
        timeout: float,
        files_changed: FilesChanged = NO_FILES_CHANGED,
    ) -> None:
        """Publishes the end of an execution, even where it cannot be written to the log.

        `timeout` is the execution's, in seconds.
        """
        failure = error_event(end, timeout, execution.error)
        line = self._stderr_line(execution, end, timeout, session)
        done = done_event(
            end,
            timing,
            session=session,
            execution_id=execution.id,
            files_changed=files_changed,
            data=session.data,
        )
        events: list[Event] = [event for event in (line, failure, done) if event is not None]
        try:
            await execution.publish(events)
        except Exception as problem:
            log.warning("the end of a run was not logged", exc_info=problem)
            execution.fail(_public_error(problem))
            execution.publish_unlogged(events)
        outcome, output_bytes = metric_label(end, failure), execution.log.text_bytes
        self._context.metrics.run_ended(session.language, outcome, timing, output_bytes)
        await self._context.executions.finish(execution, done.exit_code, done.cause)

    def _stderr_line(
        self, execution: LiveExecution, end: ExecutionEnd, timeout: float, session: Session
    ) -> Stderr | None:
        """Returns what a person is told on stderr; nothing where an error of the API tells it."""
        if execution.error is not None:
            return None
        losses = LOSES_VARIABLES if session.persistent else LOSES_FILES_TOO
        if execution.is_command or not self._is_stored:
            losses = LOSES_NOTHING
        text = describe_end(end, self._context.enforced_limits(session), timeout, losses)
        return None if text is None else server_line(text, execution.recent.last_stderr)

    async def abort(
        self, execution: LiveExecution, problem: Exception, end: ExecutionEnd, session: Session
    ) -> None:
        """Ends an execution because something failed in the server, unless it has ended."""
        if execution.finished.is_set():
            return
        execution.fail(_public_error(problem))
        await self.finish(execution, end, Timing(), session, 0)


def _public_error(problem: Exception) -> EraError:
    """Returns the error that callers get; nothing of a foreign exception's text is in it."""
    if isinstance(problem, EraError):
        return problem
    return EraError("The run failed inside the server; the server's log tells more.")

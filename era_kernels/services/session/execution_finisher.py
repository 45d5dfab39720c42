"""Records how an execution ended: in its log, for its readers, in the index and the metrics."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from era_kernels.errors import EraError
from era_kernels.models import Event, ExecutionEnd, Session
from era_kernels.services.context import ServiceContext
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.outcome import Timing, done_event, error_event, metric_label

log = logging.getLogger(__name__)


class ExecutionFinisher:
    """Ends executions, in every case, so that no caller waits for ever."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def finish(
        self,
        execution: LiveExecution,
        end: ExecutionEnd,
        timing: Timing,
        session: Session,
        timeout: float,
        files_modified: int = 0,
    ) -> None:
        """Publishes the end of an execution, even where it cannot be written to the log.

        `timeout` is the execution's, in seconds; `files_modified` is a number of files.
        """
        failure = error_event(end, timeout, execution.error)
        done = done_event(
            end,
            timing,
            session=session,
            execution_id=execution.id,
            files_modified=files_modified,
            data=session.data,
        )
        events: Sequence[Event] = [done] if failure is None else [failure, done]
        try:
            await execution.publish(events)
        except Exception as problem:
            log.warning("the end of a run was not logged", exc_info=problem)
            execution.error = execution.error or _public_error(problem)
            execution.publish_unlogged(events)
        outcome, output_bytes = metric_label(end, failure), execution.log.text_bytes
        self._context.metrics.run_ended(session.language, outcome, timing, output_bytes)
        await self._context.executions.finish(execution, done.exit_code, done.cause)

    async def abort(
        self, execution: LiveExecution, problem: Exception, end: ExecutionEnd, session: Session
    ) -> None:
        """Ends an execution because something failed in the server, unless it has ended."""
        if execution.finished.is_set():
            return
        execution.error = execution.error or _public_error(problem)
        await self.finish(execution, end, Timing(), session, 0)


def _public_error(problem: Exception) -> EraError:
    """Returns the error that callers get; nothing of a foreign exception's text is in it."""
    if isinstance(problem, EraError):
        return problem
    return EraError("The run failed inside the server; the server's log tells more.")

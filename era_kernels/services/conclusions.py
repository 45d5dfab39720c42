"""Conclusions: how an execution ended goes to its log, its readers, the index and the meters."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from era_kernels.errors import EraError
from era_kernels.models import Event, Finished, Session
from era_kernels.services.executions import Running
from era_kernels.services.outcome import Timing, done_of, failure_of, outcome_of
from era_kernels.services.tools import Tools

log = logging.getLogger(__name__)


class Conclusions:
    """Ends executions, so that nobody is left waiting for their end."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def finish(
        self,
        running: Running,
        finished: Finished,
        timing: Timing,
        session: Session,
        timeout: float,
        modified: int = 0,
    ) -> None:
        """Tell how it ended, whether or not that can be written down.

        `timeout` in seconds is what it had; `modified` files were modified.
        """
        failure = failure_of(finished, timeout, running.problem)
        done = done_of(
            finished,
            timing,
            session=session,
            execution_id=running.id,
            files_modified=modified,
            data=session.data,
        )
        events: Sequence[Event] = [done] if failure is None else [failure, done]
        try:
            await running.publish(events)
        except Exception as problem:
            log.warning("the end of a run was not logged", exc_info=problem)
            running.problem = running.problem or _told(problem)
            running.publish_unlogged(events)
        outcome, printed = outcome_of(finished, failure), running.log.text_bytes
        self._tools.meters.run_ended(session.language, outcome, timing, printed)
        await self._tools.executions.finish(running, done.exit_code, done.cause)

    async def abort(
        self, running: Running, problem: Exception, finished: Finished, session: Session
    ) -> None:
        """End it because something failed in the server, unless it has ended."""
        if running.finished.is_set():
            return
        running.problem = running.problem or _told(problem)
        await self.finish(running, finished, Timing(), session, 0)


def _told(problem: Exception) -> EraError:
    """What callers are told of a failure; nothing of a foreign exception's text."""
    if isinstance(problem, EraError):
        return problem
    return EraError("The run failed inside the server; the server's log tells more.")

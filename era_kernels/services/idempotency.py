"""Repeats: a run that is asked for twice under one key of the caller's runs once.

What was asked is remembered as a digest beside the execution. A plain hash would let whoever reads
the database try out values of `env`, which are stored nowhere; so it is an HMAC with a secret that
lies in a file of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
from collections.abc import AsyncIterator
from contextlib import aclosing
from weakref import WeakValueDictionary

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import EraError, IdempotencyConflict
from era_kernels.models import ErrorEvent, IdempotencyKey, LoggedEvent, Session, Submission
from era_kernels.services.executions.live import LiveExecution
from era_kernels.services.executions.result import RunResult
from era_kernels.services.executions.service import ExecutionService
from era_kernels.services.sessions import SessionService


class FinishedExecution:
    """An execution that has finished, for those who ask again: read as a live one is."""

    def __init__(self, executions: ExecutionService, session: Session, execution_id: str) -> None:
        self.id = execution_id
        self.session_id = session.id
        self.error: EraError | None = None
        self._executions = executions
        self._session = session

    def add_caller(self) -> None:
        """It has ended: nobody needs to be counted."""

    async def remove_caller(self) -> None:
        """It has ended: there is nothing to abandon."""

    async def result(self) -> RunResult:
        """Raises the domain error that kept it from running at all, as it did the first time."""
        _, run_result = await self._executions.result(self._session, self.id)
        self.error = None if run_result.error is None else _domain_error(run_result.error)
        if self.error is not None:
            raise self.error
        return run_result

    async def follow_with_input(self) -> AsyncIterator[list[LoggedEvent]]:
        """All of its events; nothing is asked any more. `problem` is known with the first."""
        batches = self._executions.follow(self._session, self.id)
        async with aclosing(batches):  # type: ignore[type-var]
            async for batch in batches:
                first = batch[0].event
                if batch[0].seq == 1 and isinstance(first, ErrorEvent):
                    self.error = _domain_error(first)
                yield batch


class IdempotentRuns:
    """Finds what a key of a session stands for, and submits what is asked for the first time."""

    def __init__(
        self, sessions: SessionService, executions: ExecutionService, secret: bytes
    ) -> None:
        self._sessions = sessions
        self._executions = executions
        self._secret = secret
        self._background = BackgroundTasks()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def find(
        self, session_id: str, key: str, body: bytes
    ) -> LiveExecution | FinishedExecution | None:
        """The execution of that key. Raises SessionNotFound, IdempotencyConflict."""
        return await self._find_same_body(
            await self._sessions.session(session_id), self._make_key(key, body)
        )

    async def submit(
        self,
        session_id: str,
        submission: Submission,
        key: str,
        body: bytes,
    ) -> LiveExecution | FinishedExecution:
        """The execution of that key, begun if there is none; its key is durable by then.

        Raises what `SessionService.submit` does, and IdempotencyConflict.
        """
        idempotency = self._make_key(key, body)
        # An errand: who comes next waits until it is known what has become of this one.
        return await self._background.run_shielded(
            self._submit(
                session_id, dataclasses.replace(submission, idempotency=idempotency), idempotency
            )
        )

    async def _submit(
        self,
        session_id: str,
        submission: Submission,
        idempotency: IdempotencyKey,
    ) -> LiveExecution | FinishedExecution:
        session = await self._sessions.session(session_id)
        lock = self._locks.setdefault((session.directory, idempotency.key), asyncio.Lock())
        async with lock:
            found = await self._find_same_body(session, idempotency)
            return found or await self._sessions.submit(session_id, submission)

    async def _find_same_body(
        self, session: Session, idempotency: IdempotencyKey
    ) -> LiveExecution | FinishedExecution | None:
        found = await self._executions.find_by_key(session, idempotency.key)
        if found is None:
            return None
        execution_id, digest = found
        if not hmac.compare_digest(digest, idempotency.digest):
            raise IdempotencyConflict(
                "This Idempotency-Key was used in this session with another body.",
                hint="Use a new key for each new request.",
                id=execution_id,
            )
        live = self._executions.find_live(session.id, execution_id)
        return live or FinishedExecution(self._executions, session, execution_id)

    def _make_key(self, key: str, body: bytes) -> IdempotencyKey:
        return IdempotencyKey(key, hmac.digest(self._secret, body, "sha256"))

    async def aclose(self) -> None:
        """Wait for submissions that are under way."""
        await self._background.aclose()


def _domain_error(event: ErrorEvent) -> EraError | None:
    """The domain error that a failure tells of; None where it is one of runs only."""
    found = _error_class(EraError, event.code)
    return None if found is None else found(event.message)


def _error_class(kind: type[EraError], code: str) -> type[EraError] | None:
    if kind.code == code:
        return kind
    for subclass in kind.__subclasses__():
        found = _error_class(subclass, code)
        if found is not None:
            return found
    return None

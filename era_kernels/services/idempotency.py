"""Runs a request once that is sent repeatedly under one idempotency key of the caller.

The request is kept as a digest beside the execution. A plain hash would let a reader of the
database try out values of `env`, which are stored nowhere; so the digest is an HMAC with a secret
that lies in a file of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
from collections.abc import AsyncGenerator
from contextlib import aclosing
from weakref import WeakValueDictionary

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import EraError, IdempotencyConflict
from era_kernels.models import ErrorEvent, IdempotencyKey, LoggedEvent, Session, Submission
from era_kernels.services.executions.live_execution import (
    LiveExecution,
    WaitForMemory,
    do_not_wait,
)
from era_kernels.services.executions.result import RunResult
from era_kernels.services.executions.service import ExecutionService
from era_kernels.services.sessions import SessionService


class FinishedExecution:
    """A finished execution of a repeated request, with the methods of a live one."""

    def __init__(self, executions: ExecutionService, session: Session, execution_id: str) -> None:
        self.id = execution_id
        self.session_id = session.id
        self._executions = executions
        self._session = session

    def add_caller(self) -> None:
        """Does nothing: a finished execution counts no callers."""

    async def remove_caller(self) -> None:
        """Does nothing: a finished execution cannot be abandoned."""

    async def result(self, wait_for_memory: WaitForMemory = do_not_wait) -> RunResult:
        """Returns the result; raises again the domain error that kept the run from running."""
        _, run_result = await self._executions.result(
            self._session, self.id, wait_for_memory=wait_for_memory
        )
        error = None if run_result.error is None else _domain_error(run_result.error)
        if error is not None:
            raise error
        return run_result

    async def follow_with_input(self) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields all events; no input request waits any more."""
        batches = self._executions.follow(self._session, self.id)
        async with aclosing(batches):
            async for batch in batches:
                yield batch


class IdempotentRuns:
    """Finds the execution of an idempotency key, or submits the request when there is none."""

    def __init__(
        self, sessions: SessionService, executions: ExecutionService, secret: bytes
    ) -> None:
        self._sessions = sessions
        self._executions = executions
        self._secret = secret
        self._background = BackgroundTasks(expected_errors=(EraError,))
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def find(
        self, session_id: str, key: str, canonical_request: bytes
    ) -> LiveExecution | FinishedExecution | None:
        """Returns the execution of a key, or None.

        `canonical_request` is what equal requests have in common; the web layer makes it. Raises
        SessionNotFound, IdempotencyConflict.
        """
        session = await self._sessions.session(session_id)
        idempotency = self._make_key(key, canonical_request)
        # The key is stored a moment before its execution can be followed.
        async with self._lock(session, idempotency):
            return await self._find_same_body(session, idempotency)

    async def submit(
        self,
        session_id: str,
        submission: Submission,
        key: str,
        canonical_request: bytes,
    ) -> LiveExecution | FinishedExecution:
        """Returns the execution of a key, or submits it; the key is durable when this returns.

        Raises what `SessionService.submit` does, and IdempotencyConflict.
        """
        idempotency = self._make_key(key, canonical_request)
        # Shielded from the caller's cancellation: a repeated request waits for the outcome.
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
        async with self._lock(session, idempotency):
            found = await self._find_same_body(session, idempotency)
            return found or await self._sessions.submit(session_id, submission)

    def _lock(self, session: Session, idempotency: IdempotencyKey) -> asyncio.Lock:
        return self._locks.setdefault((session.directory, idempotency.key), asyncio.Lock())

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

    def _make_key(self, key: str, canonical_request: bytes) -> IdempotencyKey:
        return IdempotencyKey(key, hmac.digest(self._secret, canonical_request, "sha256"))

    async def aclose(self) -> None:
        """Waits for submissions that are under way."""
        await self._background.aclose()


def _domain_error(event: ErrorEvent) -> EraError | None:
    """Returns the domain error with the event's code; None for a code that only runs have."""
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

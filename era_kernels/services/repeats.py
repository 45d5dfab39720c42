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
from era_kernels.models import Failure, Keyed, Recorded, Session, Submission
from era_kernels.services.executions import Executions, Running
from era_kernels.services.fold import RunAnswer
from era_kernels.services.sessions import SessionService


class Past:
    """An execution that has finished, for those who ask again: read as a live one is."""

    def __init__(self, executions: Executions, session: Session, execution_id: str) -> None:
        self.id = execution_id
        self.session_id = session.id
        self.problem: EraError | None = None
        self._executions = executions
        self._session = session

    def join(self) -> None:
        """It has ended: nobody needs to be counted."""

    async def leave(self) -> None:
        """It has ended: there is nothing to abandon."""

    async def answer(self) -> RunAnswer:
        """Raises the domain error that kept it from running at all, as it did the first time."""
        _, answer = await self._executions.answer(self._session, self.id)
        self.problem = None if answer.failure is None else _problem_of(answer.failure)
        if self.problem is not None:
            raise self.problem
        return answer

    async def listen(self) -> AsyncIterator[list[Recorded]]:
        """All of its events; nothing is asked any more. `problem` is known with the first."""
        batches = self._executions.follow(self._session, self.id)
        async with aclosing(batches):  # type: ignore[type-var]
            async for batch in batches:
                first = batch[0].event
                if batch[0].seq == 1 and isinstance(first, Failure):
                    self.problem = _problem_of(first)
                yield batch


class Repeats:
    """Finds what a key of a session stands for, and submits what is asked for the first time."""

    def __init__(self, sessions: SessionService, executions: Executions, secret: bytes) -> None:
        self._sessions = sessions
        self._executions = executions
        self._secret = secret
        self._errands = BackgroundTasks()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def find(self, id: str, key: str, body: bytes) -> Running | Past | None:
        """The execution of that key. Raises SessionNotFound, IdempotencyConflict."""
        return await self._found(await self._sessions.session(id), self._keyed(key, body))

    async def submit(
        self,
        id: str,
        submission: Submission,
        key: str,
        body: bytes,
    ) -> Running | Past:
        """The execution of that key, begun if there is none; its key is durable by then.

        Raises what `SessionService.submit` does, and IdempotencyConflict.
        """
        keyed = self._keyed(key, body)
        # An errand: who comes next waits until it is known what has become of this one.
        return await self._errands.run_shielded(
            self._submit(id, dataclasses.replace(submission, keyed=keyed), keyed)
        )

    async def _submit(
        self,
        id: str,
        submission: Submission,
        keyed: Keyed,
    ) -> Running | Past:
        session = await self._sessions.session(id)
        lock = self._locks.setdefault((session.directory, keyed.key), asyncio.Lock())
        async with lock:
            found = await self._found(session, keyed)
            return found or await self._sessions.submit(id, submission)

    async def _found(self, session: Session, keyed: Keyed) -> Running | Past | None:
        found = await self._executions.find_key(session, keyed.key)
        if found is None:
            return None
        execution_id, digest = found
        if not hmac.compare_digest(digest, keyed.digest):
            raise IdempotencyConflict(
                "This Idempotency-Key was used in this session with another body.",
                hint="Use a new key for each new request.",
                id=execution_id,
            )
        running = self._executions.find(session.id, execution_id)
        return running or Past(self._executions, session, execution_id)

    def _keyed(self, key: str, body: bytes) -> Keyed:
        return Keyed(key, hmac.digest(self._secret, body, "sha256"))

    async def aclose(self) -> None:
        """Wait for submissions that are under way."""
        await self._errands.aclose()


def _problem_of(failure: Failure) -> EraError | None:
    """The domain error that a failure tells of; None where it is one of runs only."""
    found = _by_code(EraError, failure.code)
    return None if found is None else found(failure.message)


def _by_code(kind: type[EraError], code: str) -> type[EraError] | None:
    if kind.code == code:
        return kind
    for one in kind.__subclasses__():
        found = _by_code(one, code)
        if found is not None:
            return found
    return None

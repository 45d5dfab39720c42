"""Runs a session's stored code for the requests to a port on which nothing listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from era_kernels.errors import NotSupported, QueueFull
from era_kernels.kernels.languages import Languages
from era_kernels.models import ExecSubmission, Session
from era_kernels.services.executions.result import RunResult
from era_kernels.services.kernel_limiter import RETRY_AFTER_SECONDS
from era_kernels.services.sessions import SessionService
from era_kernels.services.stored_code import StoredCodeService

MAX_WAITING = 100  # requests of one session


@dataclass(slots=True)
class _Line:
    """Lets the requests of one session run one after the other."""

    lock: asyncio.Lock
    length: int = 0  # of those that run or wait

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for those that came before, and keeps out those that come while it is open."""
        self.length += 1
        try:
            async with self.lock:
                yield
        finally:
            self.length -= 1


class StoredCodeRequests:
    """Runs stored code beside the kernel of its session, one request at a time.

    Each run is an execution of the session, like those of other programs beside the kernel.
    """

    def __init__(
        self, sessions: SessionService, codes: StoredCodeService, languages: Languages
    ) -> None:
        self._sessions = sessions
        self._codes = codes
        self._languages = languages
        self._lines: dict[str, _Line] = {}

    async def has_code(self, session_id: str) -> bool:
        """Returns whether there is code that may answer requests. Raises SessionNotFound."""
        return await self._codes.has_code(session_id)

    async def run(self, session_id: str, env: Mapping[str, str], base_url: str) -> RunResult | None:
        """Runs the code with the variables of a request, and returns what it printed.

        Those that wait hold no code, which may be large. Returns None when there is nothing in the
        code, or none any more. When the caller is cancelled the code goes on, until it ends or its
        time is over. Raises NotSupported, QueueFull, and as `LiveSession.submit`.
        """
        async with self._turn(session_id):
            session = await self._sessions.session(session_id)
            code = await self._codes.find_text(session_id)
            if code is None or not code.strip():
                return None
            submission = ExecSubmission(
                argv=await self._command(session),
                code="the stored code, for a request",
                env=env,
                stdin=code,
                base_url=base_url,
                is_request=True,
            )
            del code
            execution = await self._sessions.submit(session_id, submission)
            del submission
            return await execution.result()

    async def _command(self, session: Session) -> tuple[str, ...]:
        kernelspec = await self._languages.available_kernel(session.language, session.kernel)
        command = kernelspec.program_command()
        if not command:
            raise NotSupported(
                f"Stored code of {session.kernel or session.language} cannot answer requests.",
                hint="Let its code listen on the port instead.",
            )
        return command

    @asynccontextmanager
    async def _turn(self, session_id: str) -> AsyncIterator[None]:
        line = self._lines.setdefault(session_id, _Line(asyncio.Lock()))
        if line.length > MAX_WAITING:
            raise QueueFull(
                f"{line.length} requests to this session's stored code wait already.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        try:
            async with line.turn():
                yield
        finally:
            if not line.length:
                del self._lines[session_id]

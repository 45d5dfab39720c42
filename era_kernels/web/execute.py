"""One-shot runs in a throw-away session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from era_kernels.models import Submission
from era_kernels.web.answers import (
    ExecuteAnswer,
    TimedOutExecuteAnswer,
    execute_object,
    size_of,
    with_timeout,
)
from era_kernels.web.base import BaseHandler, ClientGone, Edge
from era_kernels.web.bodies import Env, Timed
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.executions.result import RunResult
    from era_kernels.services.sessions import SessionService


class ExecuteRequest(Timed):
    """A program to run once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"language": "python", "code": "print(6 * 7)"}]}
    )

    language: str = Field(description="A language or an alias, in any case.")
    code: str
    env: Env | None = None
    files: dict[str, str] | None = Field(None, description="Path → text, there before the run.")


class ExecuteHandler(BaseHandler):
    """A run in a session of its own, which is gone afterwards."""

    operations = {
        "POST": Operation(
            "Run code once",
            {200: ExecuteAnswer, 408: TimedOutExecuteAnswer},
            request=ExecuteRequest,
        ),
    }

    def initialize(  # type: ignore[override]
        self, edge: Edge, sessions: SessionService, names: Mapping[str, str]
    ) -> None:
        """`names`: from every name and alias of a language, in lower case, to its name."""
        super().initialize(edge)
        self.sessions = sessions
        self.names = names

    async def post(self) -> None:
        body = await self.read(ExecuteRequest)
        submission = Submission(
            code=body.code,
            timeout=body.timeout_seconds(),
            env=await self.env(body.env),
            base_url=self.edge.access.base_url(self.request),
            files=body.files or {},
        )
        answer = await self._run(body.language, submission)
        language = self.names.get(body.language.lower(), body.language)
        out, status = with_timeout(answer, execute_object(answer, language))
        await self.answer(out, status, size=size_of(answer))

    async def _run(self, language: str, submission: Submission) -> RunResult:
        running = await self.sessions.execute(language, submission)
        try:
            return await self.while_connected(running.result())
        except ClientGone:
            await running.on_abandoned()
            raise

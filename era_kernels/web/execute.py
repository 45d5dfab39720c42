"""Runs code once, in a throw-away session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from era_kernels.models import Submission
from era_kernels.web.base_handler import BaseHandler, ClientDisconnected, HandlerContext
from era_kernels.web.base_request_models import Env, TextMap, TimeoutFields
from era_kernels.web.operations import Operation
from era_kernels.web.run_responses import (
    ExecuteAnswer,
    TimedOutExecuteAnswer,
    estimated_size,
    execute_response,
    with_status,
)

if TYPE_CHECKING:
    from era_kernels.services.executions.result import RunResult
    from era_kernels.services.sessions import SessionService


class ExecuteRequest(TimeoutFields):
    """A program to run once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"language": "python", "code": "print(6 * 7)"}]}
    )

    remarks = dict.fromkeys(
        ("session_id", "data", "update_data", "background"),
        "belongs to runs in a session; execute makes one of its own and deletes it",
    )

    language: str = Field(description="A language or an alias, in any case.")
    code: str
    env: Env | None = None
    files: TextMap | None = Field(None, description="Path → text, there before the run.")


class ExecuteHandler(BaseHandler):
    """Runs code in a session of its own, which is deleted afterwards."""

    operations = {
        "POST": Operation(
            "Run code once",
            {200: ExecuteAnswer, 408: TimedOutExecuteAnswer},
            request=ExecuteRequest,
        ),
    }

    def initialize(
        self, context: HandlerContext, sessions: SessionService, language_names: Mapping[str, str]
    ) -> None:
        """Stores what the handler uses.

        `language_names` maps every name and alias of a language, in lower case, to its name.
        """
        super().initialize(context)
        self.sessions = sessions
        self.language_names = language_names

    async def post(self) -> None:
        body = await self.read_body(ExecuteRequest)
        submission = Submission(
            code=body.code,
            timeout=body.timeout_seconds(),
            env=await self.read_env(body.env),
            base_url=self.context.access.base_url(self.request),
            files=body.files or {},
        )
        result = await self._run(body.language, submission)
        language = self.language_names.get(body.language.lower(), body.language)
        out, status = with_status(result, execute_response(result, language))
        await self.finish_json(out, status, size=estimated_size(result))

    async def _run(self, language: str, submission: Submission) -> RunResult:
        execution = await self.sessions.execute(language, submission)
        self._drop_body()
        execution.add_caller()
        try:
            return await self.while_connected(execution.result())
        except ClientDisconnected:
            await execution.remove_caller()
            raise

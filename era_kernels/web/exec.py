"""Runs programs beside a session's kernel: a shell command, or a program with its arguments."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from era_kernels.errors import InvalidRequest
from era_kernels.models import ExecSubmission
from era_kernels.web.base import BaseHandler, HandlerContext
from era_kernels.web.operations import Operation
from era_kernels.web.requests import Env, TimeoutFields
from era_kernels.web.responses import (
    ExecAnswer,
    TimedOutExecAnswer,
    estimated_size,
    exec_response,
    with_status,
)

if TYPE_CHECKING:
    from era_kernels.services.sessions import SessionService

SHELL = ("/bin/sh", "-c")
_DESCRIPTION = """\
The program runs in the session's walls and its directory, beside the kernel and whatever
runs there. It is an execution: listed, readable and followed like a run, and its header
`X-Execution-Id` is sent with the answer. It goes on when the client leaves.

It waits for no run and no run waits for it. Where the session has no kernel, none is started."""


def _check_no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "must not hold a NUL character")
    return text


ArgumentText = Annotated[str, AfterValidator(_check_no_nul)]


class ExecRequest(TimeoutFields):
    """A program to run: either a `command` for the shell, or `argv`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"command": "ls -l | wc -l"}, {"argv": ["ls", "-l"]}],
            "oneOf": [{"required": ["command"]}, {"required": ["argv"]}],
        }
    )

    command: ArgumentText | None = Field(None, description="What `sh -c` runs.")
    argv: list[ArgumentText] | None = Field(
        None, min_length=1, description="A program, looked up in PATH, and its arguments."
    )
    env: Env | None = None
    stdin: str | None = Field(
        None, description="What it reads on descriptor 0. Default: nothing, /dev/null."
    )

    def command_line(self) -> tuple[tuple[str, ...], str]:
        """Returns the argv to execute and the text that lists show. Raises InvalidRequest."""
        if self.command is not None and self.argv is None:
            return (*SHELL, self.command), self.command
        if self.argv is not None and self.command is None:
            return tuple(self.argv), shlex.join(self.argv)
        raise InvalidRequest(
            "Exactly one of `command` and `argv` is required.",
            hint="`command` is a text for the shell, `argv` a list: a program and its arguments.",
        )


class ExecHandler(BaseHandler):
    """Runs a program and answers at its end. The program goes on when the client leaves."""

    operations = {
        "POST": Operation(
            "Run a program beside the kernel",
            {200: ExecAnswer, 408: TimedOutExecAnswer},
            request=ExecRequest,
            description=_DESCRIPTION,
        ),
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:  # type: ignore[override]
        super().initialize(context)
        self.sessions = sessions

    async def post(self, session_id: str) -> None:
        body = await self.read_body(ExecRequest)
        argv, listed_code = body.command_line()
        submission = ExecSubmission(
            argv=argv,
            code=listed_code,
            timeout=body.timeout_seconds(),
            env=await self.read_env(body.env),
            stdin=body.stdin,
            base_url=self.context.access.base_url(self.request),
        )
        execution = await self.sessions.submit(session_id, submission)
        self.set_sticky_header("X-Execution-Id", execution.id)
        result = await execution.result()
        out, status = with_status(result, exec_response(result))
        await self.finish_json(out, status, size=estimated_size(result))

"""Programs beside a session's kernel: one shell command, or one program with its arguments."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from era_kernels.errors import InvalidRequest
from era_kernels.models import ExecSubmission
from era_kernels.web.answers import (
    ExecAnswer,
    TimedOutExecAnswer,
    exec_object,
    size_of,
    with_timeout,
)
from era_kernels.web.base import BaseHandler, Edge
from era_kernels.web.bodies import Env, Timed
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.sessions import SessionService

SHELL = ("/bin/sh", "-c")
_TOLD = """The program runs in the session's walls and its directory, beside the kernel and whatever
runs there. It is an execution: listed, readable and followed like a run, and its header
`X-Execution-Id` is sent with the answer. It goes on when the client leaves.

It waits for no run and no run waits for it. Where the session has no kernel, none is started."""


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "must not hold a NUL character")
    return text


Part = Annotated[str, AfterValidator(_without_nul)]


class ExecRequest(Timed):
    """A program to run: either a `command` for the shell, or `argv`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"command": "ls -l | wc -l"}, {"argv": ["ls", "-l"]}],
            "oneOf": [{"required": ["command"]}, {"required": ["argv"]}],
        }
    )

    command: Part | None = Field(None, description="What `sh -c` runs.")
    argv: list[Part] | None = Field(
        None, min_length=1, description="A program, looked up in PATH, and its arguments."
    )
    env: Env | None = None
    stdin: str | None = Field(
        None, description="What it reads on descriptor 0. Default: nothing, /dev/null."
    )

    def program(self) -> tuple[tuple[str, ...], str]:
        """What is executed, and how it is listed. Raises InvalidRequest."""
        if self.command is not None and self.argv is None:
            return (*SHELL, self.command), self.command
        if self.argv is not None and self.command is None:
            return tuple(self.argv), shlex.join(self.argv)
        raise InvalidRequest(
            "Exactly one of `command` and `argv` is required.",
            hint="`command` is a text for the shell, `argv` a list: a program and its arguments.",
        )


class ExecHandler(BaseHandler):
    """A program whose answer comes at its end. It goes on when the client leaves."""

    operations = {
        "POST": Operation(
            "Run a program beside the kernel",
            {200: ExecAnswer, 408: TimedOutExecAnswer},
            request=ExecRequest,
            description=_TOLD,
        ),
    }

    def initialize(self, edge: Edge, sessions: SessionService) -> None:  # type: ignore[override]
        super().initialize(edge)
        self.sessions = sessions

    async def post(self, id: str) -> None:
        body = await self.read(ExecRequest)
        argv, shown = body.program()
        submission = ExecSubmission(
            argv=argv,
            code=shown,
            timeout=body.timeout_seconds(),
            env=await self.env(body.env),
            stdin=body.stdin,
            base_url=self.edge.access.base_url(self.request),
        )
        running = await self.sessions.submit(id, submission)
        self.set_lasting_header("X-Execution-Id", running.id)
        answer = await running.result()
        out, status = with_timeout(answer, exec_object(answer))
        await self.answer(out, status, size=size_of(answer))

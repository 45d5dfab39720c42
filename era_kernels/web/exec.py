"""Runs programs beside a session's kernel: a shell command, or a program with its arguments."""

from __future__ import annotations

import shlex
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from era_kernels.errors import InvalidRequest
from era_kernels.models import ExecSubmission
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import Env, TextList, TimeoutFields
from era_kernels.web.operations import Operation
from era_kernels.web.run_responses import (
    ExecAnswer,
    TimedOutExecAnswer,
    estimated_size,
    exec_response,
    with_status,
)
from era_kernels.web.runs import (
    EVENT_STREAM_MEDIA,
    EVENTS_DESCRIPTION,
    StartedAnswer,
    check_foreground,
    started_response,
)
from era_kernels.web.sse import EventStream

if TYPE_CHECKING:
    from era_kernels.services.executions.live_execution import LiveExecution
    from era_kernels.services.sessions import SessionService

SHELL = ("/bin/sh", "-c")
# Characters of a command line that lists show: a quarter of the usual limit of the stack, which is
# all that Linux takes; execve(2).
MAX_LISTED = 2 * 1024 * 1024
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

    synonyms = {
        **TimeoutFields.synonyms,
        "cmd": "command",
        "args": "argv",
        "workdir": "cwd",
        "working_directory": "cwd",
        "input": "stdin",
    }
    remarks = {"code": "belongs to run; exec takes a program, as `command` or `argv`"}

    command: ArgumentText | None = Field(None, description="What `sh -c` runs.")
    argv: TextList[ArgumentText] | None = Field(
        None, min_length=1, description="A program, looked up in PATH, and its arguments."
    )
    env: Env | None = None
    stdin: str | None = Field(
        None, description="What it reads on descriptor 0. Default: nothing, /dev/null."
    )
    background: bool | None = Field(
        None,
        description="Of exec only: answer 202 at once. Without a timeout it may take "
        "`max_background_timeout`, which is the most that can be asked for then.",
    )
    cwd: ArgumentText | None = Field(
        None,
        description="Where it begins: a directory below the session's own, such as `data/parts`. "
        "Default: the session's own.",
    )

    def command_line(self) -> tuple[tuple[str, ...], str]:
        """Returns the argv to execute and the text that lists show. Raises InvalidRequest."""
        if self.command is not None and self.argv is None:
            return (*SHELL, self.command), self.command
        if self.argv is not None and self.command is None:
            return tuple(self.argv), _join(self.argv)
        raise InvalidRequest(
            "Exactly one of `command` and `argv` is required.",
            hint="`command` is a text for the shell, `argv` a list: a program and its arguments.",
        )


def _join(argv: list[str]) -> str:
    """Returns the arguments as a line for the shell; one that Linux would refuse ends in `…`."""
    quoted: list[str] = []
    room = MAX_LISTED
    for argument in argv:
        quoted.append(shlex.quote(argument[:room]))
        room -= len(argument) + 1
        if room < 0:
            return " ".join([*quoted, "…"])
    return " ".join(quoted)


class ExecHandlerBase(BaseHandler):
    """Turns a body into a submission and submits it to the session, for exec and its stream."""

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:
        super().initialize(context)
        self.sessions = sessions

    async def submit(self, session_id: str, body: ExecRequest) -> LiveExecution:
        argv, listed_code = body.command_line()
        submission = ExecSubmission(
            argv=argv,
            code=listed_code,
            timeout=body.timeout_seconds(),
            env=await self.read_env(body.env),
            stdin=body.stdin,
            base_url=self.context.access.base_url(self.request),
            background=body.background is True,
            cwd=body.cwd,
        )
        execution = await self.sessions.submit(session_id, submission)
        self._drop_body()
        self.set_sticky_header("X-Execution-Id", execution.id)
        return execution


class ExecHandler(ExecHandlerBase):
    """Runs a program and answers at its end, or at once when it runs in the background."""

    operations = {
        "POST": Operation(
            "Run a program beside the kernel",
            {200: ExecAnswer, 202: StartedAnswer, 408: TimedOutExecAnswer},
            request=ExecRequest,
            description=_DESCRIPTION,
        ),
    }

    async def post(self, session_id: str) -> None:
        body = await self.read_body(ExecRequest)
        execution = await self.submit(session_id, body)
        if body.background:
            await self.finish_json(started_response(execution), 202)
            return
        result = await execution.result()
        out, status = with_status(result, exec_response(result))
        await self.finish_json(out, status, size=estimated_size(result))


class ExecStreamHandler(ExecHandlerBase):
    """Runs a program and sends its events as they happen."""

    operations = {
        "POST": Operation(
            "Run a program beside the kernel and follow it",
            {200: EVENT_STREAM_MEDIA},
            request=ExecRequest,
            description=f"{_DESCRIPTION}\n\n{EVENTS_DESCRIPTION}",
        ),
    }

    async def post(self, session_id: str) -> None:
        body = await self.read_body(ExecRequest)
        check_foreground(body.background, "exec")
        execution = await self.submit(session_id, body)
        async with aclosing(execution.follow()) as batches:
            await EventStream(self).send(batches)

"""Runs code in a session and waits for the result or streams the events.

Requests with the same Idempotency-Key run once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from era_kernels.errors import InvalidRequest
from era_kernels.json_incremental import LARGE_BYTES
from era_kernels.models import Submission
from era_kernels.web.base_handler import BaseHandler, ClientDisconnected, HandlerContext
from era_kernels.web.base_request_models import (
    FIXED_AT_CREATION,
    Env,
    JsonMap,
    QueryModel,
    QuerySeconds,
    TimeoutFields,
)
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.headers import IDEMPOTENCY_KEY, check_uncompressed
from era_kernels.web.operations import Media, Operation, RequestHeader
from era_kernels.web.run_responses import (
    RunAnswer,
    TimedOutRunAnswer,
    estimated_size,
    run_response,
    with_status,
)
from era_kernels.web.sse import EventStream

if TYPE_CHECKING:
    from era_kernels.services.executions.live_execution import LiveExecution
    from era_kernels.services.idempotency import FinishedExecution, IdempotentRuns
    from era_kernels.services.sessions import SessionService
    from era_kernels.services.stored_code import StoredCodeService

MAX_KEY_LENGTH = 255  # characters
_IDEMPOTENCY_HEADER = RequestHeader(
    IDEMPOTENCY_KEY,
    f"^[!-~]{{1,{MAX_KEY_LENGTH}}}$",
    "Makes the request safe to repeat: as long as its execution is kept, the same key in the same "
    "session gets that execution, and nothing runs again. With another body it is refused with "
    "IDEMPOTENCY_CONFLICT.",
)
EVENT_STREAM_MEDIA = Media(
    "text/event-stream",
    "Frames with `id`, `event` and one line of JSON as `data`; `done` is always the last.",
    {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
        "required": ["id", "event", "data"],
    },
)
EVENTS_DESCRIPTION = """Events, by their `type`, which is also the name of the frame's `event`:

- `stdout`, `stderr` {content}: what the program wrote; a last line of `stderr` that begins with
  `[era] ` is the server's, and tells what ended the run
- `result`, `display`, `update_display`, `clear_output`: rich outputs, as MIME bundles
- `input_request` {prompt, password}: the program waits for a line, to be sent to the execution's
  `/input`; it asks only while somebody reads its stream
- `queued` {position}: once, when the run has to wait
- `error` {error, message, code}: the server ended the run, as `code` tells: EXECUTION_TIMEOUT,
  KERNEL_DIED, OUTPUT_LIMIT, SESSION_DELETED, SESSION_RESTARTED or SERVER_STOPPED
- `done` {exit_code, exception, state, cause?, notices?, …}: always the last; `notices` say why this
  run does not find the variables of earlier ones

What is wrong with the request is an ordinary error. The answer begins as soon as there is the
execution; what fails later is an `error` event. The header `X-Execution-Id` names the execution
whose `/stream` goes on where a connection broke, after the `Last-Event-ID` given."""


class RunRequest(TimeoutFields):
    """Code to run in a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "print(6 * 7)"}]})

    remarks = {
        **dict.fromkeys(("command", "cmd", "argv", "stdin", "cwd"), "belongs to exec"),
        **dict.fromkeys(("language", "kernel"), FIXED_AT_CREATION),
        "files": "belongs to execute; PUT …/files puts files into a session",
        "session_id": "is in the path; it changes nothing here",
    }

    code: str | None = Field(None, description="Default: the code stored with the session.")
    update_data: JsonMap | None = Field(
        None, description="Merged into the session's data before the run."
    )
    env: Env | None = None
    background: bool | None = Field(
        None,
        description="Of run only: answer 202 at once. Without a timeout it may take "
        "`max_background_timeout`, which is the most that can be asked for then.",
    )
    on_disconnect: Literal["continue", "interrupt"] | None = Field(
        None,
        description="What becomes of the run when its caller goes away: it goes on (the default), "
        "or is interrupted when the last of those who asked for it has gone.",
    )

    if_busy: Literal["queue", "refuse"] | None = Field(
        None,
        description="What becomes of the run while another runs or waits: it waits its turn (the "
        "default), or is refused with SESSION_BUSY.",
    )


class RunQuery(QueryModel):
    """Tells whether the body itself is the code."""

    raw: bool = Field(
        False,
        description="The body itself is the code, in UTF-8; an empty body is the stored code. What "
        "else a run may be given is then in the query; it has no `env` and no `update_data`.",
    )


class RawRunQuery(RunQuery):
    """What a run may be given beside a body that is code; without `raw` it is in the body."""

    remarks = dict.fromkeys(("env", "update_data"), "cannot be given with `raw`")

    timeout_ms: QuerySeconds | None = Field(None, description="With `raw`: as in the body.")
    timeout: QuerySeconds | None = Field(None, description="With `raw`: as in the body.")
    background: bool | None = Field(None, description="With `raw`: as in the body.")
    on_disconnect: Literal["continue", "interrupt"] | None = Field(
        None, description="With `raw`: as in the body."
    )
    if_busy: Literal["queue", "refuse"] | None = Field(
        None, description="With `raw`: as in the body."
    )


class StartedAnswer(ResponseModel):
    """A run in the background that has its place in the queue."""

    execution_id: str
    session_id: str


class RunHandlerBase(BaseHandler):
    """Turns a body into a submission and submits it to the session, for run and for stream."""

    def initialize(
        self,
        context: HandlerContext,
        sessions: SessionService,
        codes: StoredCodeService,
        idempotent_runs: IdempotentRuns,
    ) -> None:
        super().initialize(context)
        self.sessions = sessions
        self.codes = codes
        self.idempotent_runs = idempotent_runs

    def query_model(self, operation: Operation) -> type[RunQuery]:
        return RawRunQuery if self.read_query(RunQuery).raw else RunQuery

    async def read_request(self) -> RunRequest:
        """Returns the request: the body, or with `raw` the query and the code that the body is.

        Raises InvalidJson, InvalidRequest, UnsupportedMediaType.
        """
        if not self.read_query(RunQuery).raw:
            return await self.read_body(RunRequest)
        query = self.read_query(RawRunQuery)
        check_uncompressed(self.request.headers)
        self.body = self._body.take()
        try:
            code = self.body.decode("utf-8") or None
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"The body is no UTF-8 from byte {error.start} on, and with `raw` it is the code."
            ) from None
        return RunRequest(code=code, **query.model_dump(exclude={"raw"}))

    async def submit(self, session_id: str, body: RunRequest) -> LiveExecution | FinishedExecution:
        key = self._idempotency_key()
        env = await self.read_env(body.env)
        if key is None:
            execution: LiveExecution | FinishedExecution = await self.sessions.submit(
                session_id, await self._to_submission(session_id, body, env)
            )
        else:
            canonical = await self._canonical_request(body, env)
            execution = await self.idempotent_runs.find(
                session_id, key, canonical
            ) or await self.idempotent_runs.submit(
                session_id, await self._to_submission(session_id, body, env), key, canonical
            )
        self._drop_body()
        self.set_sticky_header("X-Execution-Id", execution.id)
        return execution

    async def _canonical_request(self, body: RunRequest, env: dict[str, str]) -> bytes:
        """Returns what the same request has in common; a large body is the same byte by byte."""
        if len(self.body) <= LARGE_BYTES:
            return _canonical_request(body, env)
        hashed = hashlib.sha256(self.request.query.encode())  # with `raw` it says how to run
        await asyncio.to_thread(hashed.update, self.body)
        return hashed.digest()

    async def _to_submission(
        self,
        session_id: str,
        body: RunRequest,
        env: dict[str, str],
    ) -> Submission:
        return Submission(
            code=await self.codes.get_text(session_id) if body.code is None else body.code,
            timeout=body.timeout_seconds(),
            env=env,
            update_data=body.update_data,
            base_url=self.context.access.base_url(self.request),
            background=body.background is True,
            cancel_on_disconnect=body.on_disconnect == "interrupt",
            refuse_if_busy=body.if_busy == "refuse",
        )

    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get(IDEMPOTENCY_KEY)
        if key is None or (
            0 < len(key) <= MAX_KEY_LENGTH and all("!" <= character <= "~" for character in key)
        ):
            return key
        raise InvalidRequest(
            f"`{IDEMPOTENCY_KEY}` must be 1 to {MAX_KEY_LENGTH} visible ASCII characters."
        )


class RunHandler(RunHandlerBase):
    """Runs code and answers at the end, or at once when the run is one in the background."""

    operations = {
        "POST": Operation(
            "Run code in a session",
            {200: RunAnswer, 202: StartedAnswer, 408: TimedOutRunAnswer},
            request=RunRequest,
            query=RawRunQuery,
            headers=(_IDEMPOTENCY_HEADER,),
        ),
    }

    async def post(self, session_id: str) -> None:
        body = await self.read_request()
        if not body.background:
            await self._finish_at_end(await self.submit(session_id, body))
            return
        if body.on_disconnect == "interrupt":
            raise InvalidRequest("`on_disconnect` of a run in the background must be continue.")
        execution = await self.submit(session_id, body)
        await self.finish_json(started_response(execution), 202)

    async def _finish_at_end(self, execution: LiveExecution | FinishedExecution) -> None:
        execution.add_caller()
        try:
            result = await self.while_connected(execution.result(self.wait_for_memory))
        except ClientDisconnected:
            await execution.remove_caller()
            raise
        out, status = with_status(result, run_response(result))
        await self.finish_json(out, status, size=estimated_size(result))


class StreamHandler(RunHandlerBase):
    """Runs code and sends the events as they happen."""

    operations = {
        "POST": Operation(
            "Run code and follow it",
            {200: EVENT_STREAM_MEDIA},
            request=RunRequest,
            query=RawRunQuery,
            headers=(_IDEMPOTENCY_HEADER,),
            description=EVENTS_DESCRIPTION,
        )
    }

    async def post(self, session_id: str) -> None:
        body = await self.read_request()
        check_foreground(body.background, "run")
        execution = await self.submit(session_id, body)
        execution.add_caller()
        async with aclosing(execution.follow_with_input()) as batches:
            await EventStream(self).send(batches)
        if self.disconnected.done():
            await execution.remove_caller()


def check_foreground(background: bool | None, call: str) -> None:
    """Raises InvalidRequest where a stream is asked for in the background; `call` takes that."""
    if background:
        raise InvalidRequest(
            f"`background` is for {call}: a stream is followed.",
            hint=f"Start it with {call}, and follow it at /executions/{{execution_id}}/stream.",
        )


def started_response(execution: LiveExecution | FinishedExecution) -> StartedAnswer:
    """Returns what tells of an execution that goes on in the background."""
    return StartedAnswer(execution_id=execution.id, session_id=execution.session_id)


def _canonical_request(body: RunRequest, env: dict[str, str]) -> bytes:
    """Returns the request in a form without differences of defaults, order and unknown fields."""
    request = {**body.model_dump(exclude={"env"}), "env": env}
    return json.dumps(request, sort_keys=True, separators=(",", ":")).encode()

"""Runs in a session: asked for, waited for or followed, once under a key of the caller's."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from era_kernels.errors import InvalidRequest
from era_kernels.models import Submission
from era_kernels.web.answers import (
    Answer,
    RunAnswer,
    TimedOutRunAnswer,
    run_object,
    size_of,
    with_timeout,
)
from era_kernels.web.base import BaseHandler, ClientGone, Edge, computed
from era_kernels.web.bodies import Env, Timed
from era_kernels.web.operations import Header, Media, Operation
from era_kernels.web.sse import EventStream

if TYPE_CHECKING:
    from era_kernels.services.executions.live import LiveExecution
    from era_kernels.services.idempotency import FinishedExecution, IdempotentRuns
    from era_kernels.services.sessions import SessionService
    from era_kernels.services.stored_code import StoredCodeService

KEY = "Idempotency-Key"
MAX_KEY = 255  # characters
_ONCE = Header(
    KEY,
    f"^[!-~]{{1,{MAX_KEY}}}$",
    "Makes the request safe to repeat: as long as its execution is kept, the same key in the same "
    "session gets that execution, and nothing runs again. With another body it is refused with "
    "IDEMPOTENCY_CONFLICT.",
)
EVENTS = Media(
    "text/event-stream",
    "Frames with `id`, `event` and one line of JSON as `data`; `done` is always the last.",
    {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
        "required": ["id", "event", "data"],
    },
)
TOLD = """Events, by their `type`, which is also the name of the frame's `event`:

- `stdout`, `stderr` {content}: what the program wrote
- `result`, `display`, `update_display`, `clear_output`: rich outputs, as MIME bundles
- `input_request` {prompt, password}: the program waits for a line, to be sent to the execution's
  `/input`; it asks only while somebody reads its stream
- `queued` {position}: once, when the run has to wait
- `error` {error, message, code}: the server ended the run, as `code` tells: EXECUTION_TIMEOUT,
  KERNEL_DIED, OUTPUT_LIMIT, SESSION_DELETED, SESSION_RESTARTED or SERVER_STOPPED
- `done` {exit_code, exception, state, …}: always the last

What went wrong before the first event is an ordinary error. The header `X-Execution-Id` names the
execution whose `/stream` goes on where a connection broke, after the `Last-Event-ID` given."""


class RunRequest(Timed):
    """Code to run in a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "print(6 * 7)"}]})

    code: str | None = Field(None, description="Default: the code stored with the session.")
    update_data: dict[str, Any] | None = Field(
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


class StartedAnswer(Answer):
    """A run in the background that has its place in the queue."""

    execution_id: str
    session_id: str


class SubmittingHandler(BaseHandler):
    """What run and stream share: the body becomes a submission, the session takes it."""

    def initialize(  # type: ignore[override]
        self,
        edge: Edge,
        sessions: SessionService,
        codes: StoredCodeService,
        repeats: IdempotentRuns,
    ) -> None:
        super().initialize(edge)
        self.sessions = sessions
        self.codes = codes
        self.repeats = repeats

    async def submit(self, id: str, body: RunRequest) -> LiveExecution | FinishedExecution:
        key = self._key()
        env = await self.env(body.env)
        if key is None:
            running: LiveExecution | FinishedExecution = await self.sessions.submit(
                id, await self._submission(id, body, env)
            )
        else:
            canonical = await computed(len(self.body), _canonical, body, env)
            running = await self.repeats.find(id, key, canonical) or await self.repeats.submit(
                id, await self._submission(id, body, env), key, canonical
            )
        self.set_lasting_header("X-Execution-Id", running.id)
        return running

    async def _submission(
        self,
        id: str,
        body: RunRequest,
        env: dict[str, str],
    ) -> Submission:
        return Submission(
            code=await self.codes.get_text(id) if body.code is None else body.code,
            timeout=body.timeout_seconds(),
            env=env,
            update_data=body.update_data,
            base_url=self.edge.access.base_url(self.request),
            background=body.background is True,
            ends_with_caller=body.on_disconnect == "interrupt",
        )

    def _key(self) -> str | None:
        key = self.request.headers.get(KEY)
        if key is None or (0 < len(key) <= MAX_KEY and all("!" <= one <= "~" for one in key)):
            return key
        raise InvalidRequest(f"`{KEY}` must be 1 to {MAX_KEY} visible ASCII characters.")


class RunHandler(SubmittingHandler):
    """A run whose answer comes at its end, unless it is one in the background."""

    operations = {
        "POST": Operation(
            "Run code in a session",
            {200: RunAnswer, 202: StartedAnswer, 408: TimedOutRunAnswer},
            request=RunRequest,
            headers=(_ONCE,),
        ),
    }

    async def post(self, id: str) -> None:
        body = await self.read(RunRequest)
        if not body.background:
            await self._wait(await self.submit(id, body))
            return
        if body.on_disconnect == "interrupt":
            raise InvalidRequest("`on_disconnect` of a run in the background must be continue.")
        running = await self.submit(id, body)
        started = {"execution_id": running.id, "session_id": running.session_id}
        await self.answer(started, 202)

    async def _wait(self, running: LiveExecution | FinishedExecution) -> None:
        running.add_caller()
        try:
            answer = await self.while_connected(running.result())
        except ClientGone:
            await running.remove_caller()
            raise
        out, status = with_timeout(answer, run_object(answer))
        await self.answer(out, status, size=size_of(answer))


class StreamHandler(SubmittingHandler):
    """A run whose events come as they happen."""

    operations = {
        "POST": Operation(
            "Run code and follow it",
            {200: EVENTS},
            request=RunRequest,
            headers=(_ONCE,),
            description=TOLD,
        )
    }

    async def post(self, id: str) -> None:
        body = await self.read(RunRequest)
        if body.background:
            raise InvalidRequest(
                "`background` is for run: a stream is followed.",
                hint="Start it with run, and follow it at /executions/{execution_id}/stream.",
            )
        running = await self.submit(id, body)
        running.add_caller()
        async with aclosing(running.follow_with_input()) as batches:  # type: ignore[type-var]
            await EventStream(self, lambda: running.error).send(batches)
        if self.gone.done():
            await running.remove_caller()


def _canonical(body: RunRequest, env: dict[str, str]) -> bytes:
    """What was asked for, in one form: defaults, order and unknown fields make no difference."""
    asked = {**body.model_dump(exclude={"env"}), "env": env}
    return json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()

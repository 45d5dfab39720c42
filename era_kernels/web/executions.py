"""Lists, shows and follows the executions of a session, and serves their output."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from era_kernels.errors import InvalidRequest
from era_kernels.models import Execution, ExecutionStatus, to_iso
from era_kernels.web import ranges
from era_kernels.web.base_handler import BaseHandler, ClientDisconnected, HandlerContext
from era_kernels.web.base_request_models import Count, Paging, QueryModel, Seconds
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Media, Operation
from era_kernels.web.run_responses import FilesChangedAnswer, estimated_size, run_response
from era_kernels.web.runs import EVENT_STREAM_MEDIA, EVENTS_DESCRIPTION
from era_kernels.web.sse import EVENT_STREAM_TYPE, EventStream

if TYPE_CHECKING:
    from era_kernels.services.executions.service import ExecutionService
    from era_kernels.services.sessions import SessionService

LISTED_CODE_BYTES = 1024  # of an execution's code in a list
LARGE_LIST = 200  # lists of more executions are encoded in a thread
_LARGE_LIST_BYTES = 2 * 1024 * 1024
_FOLLOW_DESCRIPTION = f"""{EVENTS_DESCRIPTION}

A reader that has the last event already gets 204 and no body, upon which an `EventSource` stops."""
_PLAIN_TEXT = Media("text/plain", "The text so far; byte ranges are served.")


class ExecutionQuery(QueryModel):
    """Limits how long a request waits for the end."""

    wait: Seconds = Field(0, allow_inf_nan=False, description="Seconds.")


class ExecutionsQuery(Paging):
    """Selects the executions that are listed."""

    order: Literal["asc", "desc"] = Field("asc", description="Oldest or newest first.")
    status: Literal["queued", "running", "finished"] | None = None


class ReplayQuery(QueryModel):
    """Names the event after which a stream begins, as the header `Last-Event-ID` does."""

    last_event_id: Count = 0


class ExecutionAnswer(ResponseModel):
    """The run answer so far; what only the end tells is null until then."""

    execution_id: str
    session_id: str
    status: Literal["queued", "running", "finished"]
    position: NotRequired[
        Annotated[int, Field(0, description="In the queue, from 1; only while queued.")]
    ]
    code: str
    stdout: str
    stderr: str
    exit_code: int | None
    execution_time_ms: float | None
    duration: str | None
    files_modified: int | None
    files_changed: FilesChangedAnswer | None
    data: dict[str, Any] | None
    results: list[dict[str, Any]]
    exception: dict[str, Any] | None
    state: str | None
    started_from: str | None
    kernel_generation: int | None
    queued_ms: float | None
    start_ms: float | None
    cause: NotRequired[Annotated[str, Field("")]]
    notices: NotRequired[Annotated[list[str], Field([], description="As in the run answer.")]]
    truncated: NotRequired[Annotated[bool, Field(False)]]
    full_output: NotRequired[Annotated[dict[str, str] | None, Field(None)]]


class ExecutionListed(ResponseModel):
    """An execution in a list."""

    execution_id: str
    status: Literal["queued", "running", "finished"]
    position: NotRequired[
        Annotated[int, Field(0, description="In the queue, from 1; only while queued.")]
    ]
    code: Annotated[
        str, Field(description="At most its first 1 024 bytes; all of it has the execution.")
    ]
    code_truncated: bool
    created_at: str
    started_at: str
    finished_at: str
    exit_code: int | None
    cause: str | None


class ExecutionsAnswer(ResponseModel):
    """Executions: `count` are listed, `total` there are, of that status if one was asked for."""

    executions: list[ExecutionListed]
    count: int
    total: int


class _Status(TypedDict):
    status: Literal["queued", "running", "finished"]
    position: NotRequired[int]


# ---------------------------------------------------------------- handlers


class ExecutionHandlerBase(BaseHandler):
    """Holds the services that the handlers of executions share."""

    def initialize(
        self, context: HandlerContext, sessions: SessionService, executions: ExecutionService
    ) -> None:
        super().initialize(context)
        self.sessions = sessions
        self.executions = executions


class ExecutionsHandler(ExecutionHandlerBase):
    """Lists the executions of a session."""

    operations = {
        "GET": Operation("List executions", {200: ExecutionsAnswer}, query=ExecutionsQuery)
    }

    async def get(self, session_id: str) -> None:
        query = self.read_query(ExecutionsQuery)
        await self.sessions.session(session_id)
        found, total = await self.while_connected(
            self.executions.list_executions(
                session_id,
                query.limit,
                query.offset,
                newest_first=query.order == "desc",
                status=None if query.status is None else ExecutionStatus(query.status),
            )
        )
        listed = [execution_summary(execution) for execution in found]
        size = _LARGE_LIST_BYTES if len(listed) > LARGE_LIST else 0
        await self.finish_json(
            ExecutionsAnswer(executions=listed, count=len(listed), total=total), size=size
        )


class ExecutionHandler(ExecutionHandlerBase):
    """Shows an execution: the answer so far, or the answer at its end."""

    operations = {
        "GET": Operation("Show an execution", {200: ExecutionAnswer}, query=ExecutionQuery),
    }

    async def get(self, session_id: str, execution_id: str) -> None:
        wait = self.read_query(ExecutionQuery).wait
        session = await self.sessions.session(session_id)
        execution, result = await self.while_connected(
            self.executions.result(session, execution_id, wait, self.wait_for_memory)
        )
        out = {**run_response(result), **_status(execution), "code": execution.code}
        await self.finish_json(out, size=estimated_size(result) + len(execution.code))


class ExecutionStreamHandler(ExecutionHandlerBase):
    """Sends an execution's events, from any stored event on, then live."""

    operations = {
        "GET": Operation(
            "Follow an execution",
            {200: EVENT_STREAM_MEDIA, 204: None},
            query=ReplayQuery,
            description=_FOLLOW_DESCRIPTION,
        ),
    }

    async def get(self, session_id: str, execution_id: str) -> None:
        after = last_event_id(self)
        session = await self.sessions.session(session_id)
        live = await self.executions.find_unfinished(session_id, execution_id)
        batches = self.executions.follow(session, execution_id, after)
        async with aclosing(batches):
            # Those of a finished execution are on disk: the first of them is there at once.
            first = await anext(batches, None) if live is None else None
            if first is None and (live is None or not live.has_events_after(after)):
                self.set_status(204)
            elif self.request.method == "HEAD":
                self.set_header("Content-Type", EVENT_STREAM_TYPE)
            else:
                await EventStream(self).send(batches, after, first)


class ExecutionOutputHandler(ExecutionHandlerBase):
    """Serves the text that an execution wrote to stdout or stderr."""

    operations = {
        "GET": Operation("Read an execution's output", {200: _PLAIN_TEXT, 206: _PLAIN_TEXT})
    }

    def initialize(  # type: ignore[override]
        self,
        context: HandlerContext,
        sessions: SessionService,
        executions: ExecutionService,
        stream: str,
    ) -> None:
        super().initialize(context, sessions, executions)
        self.stream = stream

    async def get(self, session_id: str, execution_id: str) -> None:
        session = await self.sessions.session(session_id)
        text = await self.executions.text(session, execution_id, self.stream)
        # The text has no ETag and no date, so a request with If-Range gets the whole text.
        start, stop = ranges.prepare_range_response(
            self, text.total, is_applicable="If-Range" not in self.request.headers
        )
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if self.request.method == "HEAD" or start == stop:
            return
        with suppress(ClientDisconnected):
            async with aclosing(text.read(start, stop)) as chunks:
                async for chunk in chunks:
                    await self.send(chunk)


def last_event_id(handler: BaseHandler) -> int:
    """Returns the number of the last event that the reader has. Raises InvalidRequest.

    The header wins over the query: a reader that reconnects adds the header to its first URL.
    """
    header = handler.request.headers.get("Last-Event-ID", "")
    if not header:
        return handler.read_query(ReplayQuery).last_event_id
    if not (header.isascii() and header.isdigit() and len(header) <= 15):
        raise InvalidRequest("`Last-Event-ID` must be the number of an event.")
    return int(header)


def execution_summary(execution: Execution) -> ExecutionListed:
    """Returns an execution as lists show it."""
    # A character has a byte at least, so the rest of a long code need not be encoded.
    beginning = execution.code[:LISTED_CODE_BYTES].encode("utf-8", "surrogatepass")
    code = beginning[:LISTED_CODE_BYTES].decode("utf-8", "ignore")
    return {
        "execution_id": execution.id,
        **_status(execution),
        "code": code,
        "code_truncated": len(code) < len(execution.code),
        "created_at": to_iso(execution.created_at),
        "started_at": to_iso(execution.started_at),
        "finished_at": to_iso(execution.finished_at),
        "exit_code": execution.exit_code,
        "cause": execution.cause,
    }


def _status(execution: Execution) -> _Status:
    status: _Status = {"status": execution.status.value}
    if execution.position is not None:
        status["position"] = execution.position
    return status

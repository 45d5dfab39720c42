"""Shows a session's log, the output between and after its runs, as a list or a live stream."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from era_kernels.errors import SessionNotFound
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import JsonObject, LoggedEvent, event_to_json, to_iso
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.executions import ReplayQuery, last_event_id
from era_kernels.web.operations import Operation
from era_kernels.web.runs import EVENT_STREAM_MEDIA
from era_kernels.web.sse import EVENT_STREAM_TYPE, EventStream

if TYPE_CHECKING:
    from era_kernels.services.session_logs import SessionLogs, SessionLogView
    from era_kernels.services.sessions import SessionService

_ENTRY_BYTES = 256  # what an entry counts beside its content
_DESCRIPTION = """\
What threads, timers, servers and child processes of earlier runs printed when no run of
theirs was under way any more, and how a kernel ended that ended between runs.

With `Accept: text/event-stream` the entries are followed live: frames with the number of the entry
as `id`, its stream as `event`, and as `data` one line of JSON with `type` (the same as `event`),
`time` and `content`; after the entries that are kept, or after the `Last-Event-ID` given. The
stream ends when the session is deleted."""


class LogEntry(ResponseModel):
    """What was written to one of the two streams at a time."""

    time: str
    stream: Literal["stdout", "stderr"]
    content: str


class LogAnswer(ResponseModel):
    """The entries that are kept, oldest first."""

    entries: list[LogEntry]
    truncated: Annotated[bool, Field(description="Whether older entries were dropped.")]


class LogHandler(BaseHandler):
    """Lists or follows the log of a session."""

    operations = {
        "GET": Operation(
            "Read or follow the log",
            {200: LogAnswer},
            query=ReplayQuery,
            description=_DESCRIPTION,
            alternative=EVENT_STREAM_MEDIA,
        )
    }

    def initialize(
        self, context: HandlerContext, sessions: SessionService, logs: SessionLogs
    ) -> None:
        super().initialize(context)
        self.sessions = sessions
        self.logs = logs

    async def get(self, session_id: str) -> None:
        after = last_event_id(self)
        self.set_header("Vary", "Accept")
        directory = (await self.sessions.session(session_id)).directory
        if self._wants_stream():
            await self._follow(session_id, directory, after)
            return
        view = await self.logs.view(directory)
        answer = await in_thread_if_large(
            len(view.entries) * _ENTRY_BYTES, log_response, view, after
        )
        size = sum(len(entry["content"]) + _ENTRY_BYTES for entry in answer["entries"])
        await self.finish_json(answer, size=size)

    def _wants_stream(self) -> bool:
        return "text/event-stream" in self.request.headers.get("Accept", "").lower()

    async def _follow(self, session_id: str, directory: str, after: int) -> None:
        live = self.logs.live_log(directory)
        # Looked up again: a session that is deleted after this line ends the stream of `live`.
        if (await self.sessions.session(session_id)).directory != directory:
            raise SessionNotFound.for_id(session_id)
        if self.request.method == "HEAD":
            self.set_header("Content-Type", EVENT_STREAM_TYPE)
            return
        async with aclosing(live.follow(after)) as batches:
            await EventStream(self, _stream_entry).send(batches, after)


def log_response(view: SessionLogView, after: int) -> LogAnswer:
    """Returns the entries with numbers past `after`."""
    entries = [_entry_response(entry) for entry in view.entries if entry.seq > after]
    return LogAnswer(entries=entries, truncated=view.truncated)


def _entry_response(entry: LoggedEvent) -> LogEntry:
    event = event_to_json(entry.event)
    return LogEntry(time=to_iso(entry.time), stream=event["type"], content=event["content"])


def _stream_entry(entry: LoggedEvent) -> JsonObject:
    event = event_to_json(entry.event)
    return {"type": event["type"], "time": to_iso(entry.time), "content": event["content"]}

"""Creates, lists, shows, changes, deletes and restarts sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from era_kernels import json_codec
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import (
    ALL_STORAGE,
    FileInfo,
    JsonObject,
    Limits,
    NewSession,
    SessionView,
    now,
    to_iso,
)
from era_kernels.services.session_limits import LIMIT_FIELDS
from era_kernels.web.base import BaseHandler, HandlerContext
from era_kernels.web.operations import Operation
from era_kernels.web.requests import (
    JsonMap,
    Paging,
    PositiveInt,
    PositiveSeconds,
    ProcessorCount,
    RequestModel,
    SessionId,
    StorageScopeField,
)
from era_kernels.web.responses import ResponseModel

if TYPE_CHECKING:
    from era_kernels.services.sessions import SessionService
    from era_kernels.storage.snapshot import Snapshot

LARGE_LIST = 200  # lists of more files are encoded in a thread
LARGE_LIST_BYTES = 2 * 1024 * 1024


class SessionLimits(RequestModel):
    """What this session may use; only lower than what the server allows, see /api/limits."""

    memory_mb: PositiveInt | None = Field(None, description="All processes together, in MiB.")
    processes: PositiveInt | None = Field(None, description="Processes and threads.")
    workspace_mb: PositiveInt | None = Field(None, description="All files together, in MiB.")
    cpu: ProcessorCount | None = Field(None, description="Processors kept busy, such as 0.5.")


class CreateSession(RequestModel):
    """A wish for a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"language": "python"}]})

    language: str = Field(description="A language or an alias, in any case.")
    kernel: str | None = Field(None, description="One that /api/languages lists for it.")
    persistent: bool | None = Field(None, description="Default true.")
    session_id: SessionId | None = Field(None, description="Default: a random id.")
    id: SessionId | None = Field(None, description="The same as `session_id`.")
    data: JsonMap | None = Field(None, description="Runtime state, at most 1 MiB.")
    metadata: JsonMap | None = Field(None, description="Labels, at most 1 MiB.")
    default_timeout: PositiveSeconds | None = Field(None, description="Seconds.")
    ttl: PositiveSeconds | None = Field(
        None, description="Seconds without a request, then it is deleted."
    )
    allowInternetAccess: bool | None = None
    allowPublicAccess: bool | None = None
    limits: SessionLimits | None = Field(None, description="Default: those of the server.")
    mounts: list[str] | None = Field(
        None, description="Names of directories that the operator offers, read-only at /mnt/NAME."
    )
    storage: StorageScopeField | None = Field(
        None, description="Namespaces that its code may use, such as `app` or `tmp-*`."
    )


class ChangeSession(RequestModel):
    """What to change; what is absent stays. Values are replaced whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"owner": "ada"}}]})

    default_timeout: PositiveSeconds | None = Field(None, description="Seconds; null unsets it.")
    ttl: PositiveSeconds | None = Field(
        None, description="Seconds without a request, then it is deleted; null unsets it."
    )
    allowInternetAccess: bool = Field(default_factory=bool)
    allowPublicAccess: bool = Field(default_factory=bool)
    metadata: JsonMap = Field(default_factory=dict)
    data: JsonMap = Field(default_factory=dict)
    storage: StorageScopeField = Field(
        default_factory=lambda: ALL_STORAGE,
        description="Namespaces that its code may use, such as `app` or `tmp-*`.",
    )


class SessionsQuery(Paging):
    """Selects the sessions that are listed."""

    language: str | None = None


class IsolationAnswer(ResponseModel):
    """How strong the walls are: tier 1 (all) to 4 (none), and what is not enforced."""

    tier: int
    missing: list[str]


class OwnLimitsAnswer(ResponseModel):
    """The limits of this session alone; the server's hold beside them."""

    memory_mb: int | None = None
    processes: int | None = None
    workspace_mb: int | None = None
    cpu: float | None = None


class SessionListed(ResponseModel):
    """A session in a list: without its data."""

    id: str
    session_id: str
    created_at: str
    last_run_at: str = Field(description="Empty before the first run.")
    language: str
    persistent: bool
    file_count: int
    total_size_bytes: int
    metadata: dict[str, Any]
    allowInternetAccess: bool
    allowPublicAccess: bool
    status: Literal["idle", "busy", "starting", "stopped"]
    kernel_generation: int
    isolation: IsolationAnswer
    default_timeout: float | None = Field(None, description="Seconds; only when set.")
    ttl: float | None = Field(None, description="Seconds; only when set.")
    limits: OwnLimitsAnswer | None = Field(None, description="Only when set.")
    mounts: list[str] | None = Field(None, description="Only when there are any.")
    storage: Literal["all", "none"] | list[str] | None = Field(None, description="Only when set.")
    kernel: str | None = Field(None, description="Only when set.")


class SessionAnswer(SessionListed):
    """A session."""

    data: dict[str, Any]


class FileAnswer(ResponseModel):
    """One file of a session's workspace."""

    path: str
    size: int
    modified_at: str


class SessionWithFiles(SessionAnswer):
    """A session and its files."""

    files: list[FileAnswer]


class SessionsAnswer(ResponseModel):
    """Sessions, oldest first: `count` are listed, `total` there are."""

    sessions: list[SessionListed]
    count: int
    total: int


class ChangedAnswer(ResponseModel):
    """The whole session, under the name that the API gives it here."""

    success: Literal[True]
    id: str
    metadata: SessionAnswer
    updated_at: str


class DeletedAnswer(ResponseModel):
    """The session is gone, and its id is free."""

    success: Literal[True]
    id: str
    deleted_at: str


class AllDeletedAnswer(ResponseModel):
    """Every session is gone."""

    success: Literal[True]
    deleted_count: int
    deleted_sessions: list[str]
    deleted_at: str


class RestartedAnswer(ResponseModel):
    """The session has a fresh kernel."""

    success: Literal[True]
    id: str
    kernel_generation: int


# ---------------------------------------------------------------- handlers


class SessionsHandler(BaseHandler):
    """Lists, creates and deletes the sessions of the server."""

    operations = {
        "GET": Operation("List sessions", {200: SessionsAnswer}, query=SessionsQuery),
        "POST": Operation("Create a session", {201: SessionAnswer}, request=CreateSession),
        "DELETE": Operation("Delete every session", {200: AllDeletedAnswer}),
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:  # type: ignore[override]
        super().initialize(context)
        self.sessions = sessions

    async def get(self) -> None:
        query = self.read_query(SessionsQuery)
        views, total = await self.sessions.list_sessions(query.limit, query.offset, query.language)
        listed, count = await json_codec.dumps_array(map(session_summary, views))
        self.finish(b'{"sessions":%b,"count":%d,"total":%d}' % (listed, count, total))

    async def post(self) -> None:
        view = await self.sessions.create(_new_session(await self.read_body(CreateSession)))
        await self.finish_json(session_response(view), 201)

    async def delete(self) -> None:
        ids = await self.sessions.delete_all()
        await self.finish_json(
            {
                "success": True,
                "deleted_count": len(ids),
                "deleted_sessions": ids,
                "deleted_at": to_iso(now()),
            }
        )


class SessionHandler(BaseHandler):
    """Shows, changes and deletes one session."""

    operations = {
        "GET": Operation("Show a session and its files", {200: SessionWithFiles}),
        "PATCH": Operation("Change a session", {200: ChangedAnswer}, request=ChangeSession),
        "DELETE": Operation("Delete a session", {200: DeletedAnswer}),
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:  # type: ignore[override]
        super().initialize(context)
        self.sessions = sessions

    async def get(self, session_id: str) -> None:
        view = await self.sessions.get(session_id)
        snapshot = await self.sessions.files(session_id)
        size = LARGE_LIST_BYTES if snapshot.count > LARGE_LIST else 0
        files = await in_thread_if_large(size, _files_response, snapshot)
        await self.finish_json({**session_response(view), "files": files}, size=size)

    async def patch(self, session_id: str) -> None:
        changes = _changes(await self.read_body(ChangeSession))
        view = await self.sessions.update(session_id, **changes)
        await self.finish_json(
            {
                "success": True,
                "id": session_id,
                "metadata": session_response(view),
                "updated_at": to_iso(now()),
            }
        )

    async def delete(self, session_id: str) -> None:
        deleted_at = await self.sessions.delete(session_id)
        await self.finish_json(
            {"success": True, "id": session_id, "deleted_at": to_iso(deleted_at)}
        )


class RestartHandler(BaseHandler):
    """Replaces a session's kernel by a fresh one."""

    operations = {"POST": Operation("Start a fresh kernel", {200: RestartedAnswer})}

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:  # type: ignore[override]
        super().initialize(context)
        self.sessions = sessions

    async def post(self, session_id: str) -> None:
        base_url = self.context.access.base_url(self.request)
        generation = await self.sessions.restart(session_id, base_url)
        await self.finish_json({"success": True, "id": session_id, "kernel_generation": generation})


# ---------------------------------------------------------------- in and out


def _new_session(body: CreateSession) -> NewSession:
    return NewSession(
        language=body.language,
        id=body.session_id or body.id,
        persistent=body.persistent is not False,
        data=body.data or {},
        metadata=body.metadata or {},
        default_timeout=body.default_timeout,
        ttl=body.ttl,
        allow_internet=body.allowInternetAccess,
        allow_public=body.allowPublicAccess,
        limits=_to_limits(body.limits),
        mounts=tuple(body.mounts or ()),
        storage=body.storage,
        kernel=body.kernel,
    )


def _to_limits(requested: SessionLimits | None) -> Limits | None:
    """Returns the limits in bytes, None when none is set."""
    given = [(limit, getattr(requested, limit.name, None)) for limit in LIMIT_FIELDS]
    values = {limit.field: value * limit.unit for limit, value in given if value is not None}
    return Limits(**values) if values else None


def _limits_response(limits: Limits) -> JsonObject:
    """Returns the limits that are set, in the units that callers use."""
    values = [(limit, getattr(limits, limit.field)) for limit in LIMIT_FIELDS]
    return {
        limit.name: value if limit.unit == 1 else value // limit.unit
        for limit, value in values
        if value is not None
    }


# Of the fields that the domain names otherwise than the API.
_DOMAIN_NAMES: Mapping[str, str] = {
    "allowInternetAccess": "allow_internet",
    "allowPublicAccess": "allow_public",
}


def _changes(body: ChangeSession) -> dict[str, object]:
    """Returns the fields that the body gave, under the names that the domain uses."""
    return {_DOMAIN_NAMES.get(name, name): getattr(body, name) for name in body.model_fields_set}


def session_summary(view: SessionView) -> JsonObject:
    """Returns a session as lists show it."""
    session = view.session
    out: JsonObject = {
        "id": session.id,
        "session_id": session.id,
        "created_at": to_iso(session.created_at),
        "last_run_at": to_iso(session.last_run_at),
        "language": session.language,
        "persistent": session.persistent,
        "file_count": session.file_count,
        "total_size_bytes": session.total_size,
        "metadata": session.metadata,
        "allowInternetAccess": session.allow_internet,
        "allowPublicAccess": session.allow_public,
        "status": view.status.value,
        "kernel_generation": session.kernel_generation,
        "isolation": {"tier": view.isolation.tier, "missing": list(view.isolation.missing)},
    }
    for name in ("default_timeout", "ttl"):
        seconds = getattr(session, name)
        if seconds is not None:
            out[name] = _int_if_whole(seconds)
    if session.limits is not None:
        out["limits"] = _limits_response(session.limits)
    if session.mounts:
        out["mounts"] = list(session.mounts)
    if session.storage is not None:
        out["storage"] = session.storage.to_json()
    if session.kernel is not None:
        out["kernel"] = session.kernel
    return out


def session_response(view: SessionView) -> JsonObject:
    """Returns a session as every call but the list shows it."""
    return {**session_summary(view), "data": view.session.data}


def file_response(file: FileInfo) -> JsonObject:
    return {"path": file.path, "size": file.size, "modified_at": to_iso(file.modified_at)}


def _files_response(snapshot: Snapshot) -> list[JsonObject]:
    return [file_response(file) for file in snapshot.files]


def _int_if_whole(seconds: float) -> float:
    """Returns an int for a whole number: 120 seconds are shown as 120, not as 120.0."""
    return int(seconds) if seconds == int(seconds) else seconds

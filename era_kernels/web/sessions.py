"""Creates, lists, shows, changes, deletes and restarts sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, model_validator

from era_kernels import json_codec
from era_kernels.errors import InvalidRequest
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import (
    ALL_STORAGE,
    Limits,
    NewSession,
    Session,
    now,
    to_iso,
)
from era_kernels.services.requested_limits import LIMIT_FIELDS
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import (
    FIXED_AT_CREATION,
    HostPatternsField,
    JsonMap,
    Paging,
    PositiveInt,
    PositiveSeconds,
    ProcessorCount,
    RequestModel,
    SessionId,
    StorageScopeField,
    TextList,
    id_warnings,
)
from era_kernels.web.operations import Operation
from era_kernels.web.session_responses import (
    AllDeletedAnswer,
    ChangedAnswer,
    DeletedAnswer,
    RestartedAnswer,
    SessionAnswer,
    SessionsAnswer,
    SessionWithFiles,
    estimated_size,
    files_response,
    session_response,
    session_summary,
)

if TYPE_CHECKING:
    from era_kernels.services.sessions import SessionService

LARGE_LIST = 200  # lists of more files are encoded in a thread
LARGE_LIST_BYTES = 2 * 1024 * 1024
MAX_LABELS = 20  # that a list is selected by
_LABEL = "metadata."


class SessionLimits(RequestModel):
    """What this session may use; only lower than what the server allows, see /api/limits."""

    memory_mb: PositiveInt | None = Field(None, description="All processes together, in MiB.")
    processes: PositiveInt | None = Field(None, description="Processes and threads.")
    workspace_mb: PositiveInt | None = Field(None, description="All files together, in MiB.")
    cpu: ProcessorCount | None = Field(None, description="Processors kept busy, such as 0.5.")


# What a session shows and nobody sets: some send back all that they have got.
_TOLD_BY_SERVER = dict.fromkeys(
    (
        *("created_at", "updated_at", "last_run_at", "file_count", "total_size_bytes"),
        *("status", "kernel_generation", "isolation"),
    ),
    "is told by the server; it changes nothing here",
)


class CreateSession(RequestModel):
    """A wish for a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"language": "python"}]})

    synonyms = {"name": "session_id", "network": "allowInternetAccess", "labels": "metadata"}
    remarks = {
        **_TOLD_BY_SERVER,
        **dict.fromkeys(SessionLimits.model_fields, "belongs in `limits`"),
        "env": "is given to each run, and is not kept",
        "code": "is not known; PUT …/code stores code with a session",
        "files": "is not known; PUT …/files puts files into a session",
    }

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
    allowInternetAccess: bool | None = Field(None, description="Default false.")
    allowPublicAccess: bool | None = None
    allow_hosts: HostPatternsField | None = Field(
        None, description="Hosts that it may reach, where it has internet access; default all."
    )
    limits: SessionLimits | None = Field(None, description="Default: those of the server.")
    mounts: TextList[str] | None = Field(
        None, description="Names of directories that the operator offers, read-only at /mnt/NAME."
    )
    storage: StorageScopeField | None = Field(
        None, description="Namespaces that its code may use, such as `app` or `tmp-*`."
    )
    exist_ok: bool | None = Field(
        None,
        description="A session that has the id and the language is returned as it is, with 200.",
    )


# What only the creation of a session takes.
CREATION_FIELDS = (
    "language", "kernel", "persistent", "session_id", "id", "limits", "mounts", "exist_ok",
)  # fmt: skip


class ChangeSession(RequestModel):
    """What to change; what is absent stays. Values are replaced whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"owner": "ada"}}]})

    synonyms = {"network": "allowInternetAccess", "labels": "metadata"}
    remarks = {
        **_TOLD_BY_SERVER,
        **dict.fromkeys((*SessionLimits.model_fields, *CREATION_FIELDS), FIXED_AT_CREATION),
    }

    default_timeout: PositiveSeconds | None = Field(None, description="Seconds; null unsets it.")
    ttl: PositiveSeconds | None = Field(
        None, description="Seconds without a request, then it is deleted; null unsets it."
    )
    allowInternetAccess: bool = Field(
        default_factory=bool, description="Switches the internet access of running code, too."
    )
    allowPublicAccess: bool = Field(default_factory=bool)
    allow_hosts: HostPatternsField | None = Field(
        None, description="Hosts that it may reach, where it has internet access; null means all."
    )
    metadata: JsonMap = Field(default_factory=dict)
    data: JsonMap = Field(default_factory=dict)
    storage: StorageScopeField = Field(
        default_factory=lambda: ALL_STORAGE,
        description="Namespaces that its code may use, such as `app` or `tmp-*`.",
    )


class SessionsQuery(Paging):
    """Selects the sessions that are listed."""

    language: str | None = None
    prefix: str = Field("", description="How the ids begin.")
    metadata: dict[str, str] = Field(
        default_factory=dict,
        max_length=MAX_LABELS,
        description="Labels, each as a parameter of its own: `metadata.KEY=VALUE`. A label that is "
        "no text is compared as JSON writes it, such as `3` or `true`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_labels(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Gathers `metadata.KEY`, whose names Tornado decodes as Latin-1."""
        labels = {
            name.removeprefix(_LABEL).encode("latin1", "replace").decode("utf-8", "replace"): text
            for name, text in values.items()
            if name.startswith(_LABEL)
        }
        return {**values, "metadata": labels} if labels else values


# ---------------------------------------------------------------- handlers


class SessionsHandler(BaseHandler):
    """Lists, creates and deletes the sessions of the server."""

    operations = {
        "GET": Operation("List sessions", {200: SessionsAnswer}, query=SessionsQuery),
        "POST": Operation(
            "Create a session", {200: SessionAnswer, 201: SessionAnswer}, request=CreateSession
        ),
        "DELETE": Operation("Delete every session", {200: AllDeletedAnswer}),
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:
        super().initialize(context)
        self.sessions = sessions

    async def get(self) -> None:
        query = self.read_query(SessionsQuery)
        views, total = await self.while_connected(
            self.sessions.list_sessions(
                query.limit,
                query.offset,
                query.language,
                prefix=query.prefix,
                metadata=query.metadata,
            )
        )
        listed, count = await json_codec.dumps_array(map(session_summary, views))
        await self.finish_encoded(b'{"sessions":%b,"count":%d,"total":%d}' % (listed, count, total))

    async def post(self) -> None:
        body = await self.read_body(CreateSession)
        self.warn(id_warnings("session_id", body.session_id, body.id))
        new = _new_session(body)
        view, is_new = await self.sessions.create(new)
        self.warn(_ineffective_hosts(new.allow_hosts, view.session))
        await self.finish_json(
            session_response(view), 201 if is_new else 200, size=estimated_size(view)
        )

    async def delete(self) -> None:
        if self.request.query_arguments:
            raise InvalidRequest(
                "This deletes every session and takes no parameters; none was deleted.",
                hint="GET /api/sessions selects sessions; delete each by its id.",
            )
        ids = await self.sessions.delete_all()
        await self.finish_json(
            AllDeletedAnswer(
                success=True, deleted_count=len(ids), deleted_sessions=ids, deleted_at=to_iso(now())
            )
        )


class SessionHandler(BaseHandler):
    """Shows, changes and deletes one session."""

    operations = {
        "GET": Operation("Show a session and its files", {200: SessionWithFiles}),
        "PATCH": Operation("Change a session", {200: ChangedAnswer}, request=ChangeSession),
        "DELETE": Operation("Delete a session", {200: DeletedAnswer}),
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:
        super().initialize(context)
        self.sessions = sessions

    async def get(self, session_id: str) -> None:
        view = await self.sessions.get(session_id)
        listing = await self.sessions.files(session_id)
        size = LARGE_LIST_BYTES if listing.count > LARGE_LIST else 0
        files = await in_thread_if_large(size, files_response, listing)
        size += estimated_size(view)
        await self.finish_json({**session_response(view), "files": files}, size=size)

    async def patch(self, session_id: str) -> None:
        changes = _changes(await self.read_body(ChangeSession))
        view = await self.sessions.update(session_id, **changes)
        self.warn(_ineffective_hosts(changes.get("allow_hosts"), view.session))
        await self.finish_json(
            ChangedAnswer(
                success=True,
                id=session_id,
                metadata=session_response(view),
                updated_at=to_iso(now()),
            ),
            size=estimated_size(view),
        )

    async def delete(self, session_id: str) -> None:
        deleted_at = await self.sessions.delete(session_id)
        await self.finish_json(
            DeletedAnswer(success=True, id=session_id, deleted_at=to_iso(deleted_at))
        )


class RestartHandler(BaseHandler):
    """Replaces a session's kernel by a fresh one."""

    operations = {"POST": Operation("Start a fresh kernel", {200: RestartedAnswer})}

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:
        super().initialize(context)
        self.sessions = sessions

    async def post(self, session_id: str) -> None:
        base_url = self.context.access.base_url(self.request)
        generation = await self.sessions.restart(session_id, base_url)
        await self.finish_json(
            RestartedAnswer(success=True, id=session_id, kernel_generation=generation)
        )


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
        allow_hosts=body.allow_hosts,
        exist_ok=body.exist_ok is True,
    )


def _ineffective_hosts(given: object, session: Session) -> list[str]:
    """Returns a warning where a caller names hosts for a session without internet access."""
    if given is None or session.allow_internet:
        return []
    return ["allow_hosts opens nothing while allowInternetAccess is false"]


def _to_limits(requested: SessionLimits | None) -> Limits | None:
    """Returns the limits in bytes, None when none is set."""
    given = [(limit, getattr(requested, limit.name, None)) for limit in LIMIT_FIELDS]
    values = {limit.field: value * limit.unit for limit, value in given if value is not None}
    return Limits(**values) if values else None


# Of the fields that the domain names otherwise than the API.
_DOMAIN_NAMES: Mapping[str, str] = {
    "allowInternetAccess": "allow_internet",
    "allowPublicAccess": "allow_public",
}


def _changes(body: ChangeSession) -> dict[str, object]:
    """Returns the fields that the body gave, under the names that the domain uses."""
    return {_DOMAIN_NAMES.get(name, name): getattr(body, name) for name in body.model_fields_set}

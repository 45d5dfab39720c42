"""Response models of sessions, and the functions that build these responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, cast

from pydantic import Field

from era_kernels.json_codec import SLICE_BYTES
from era_kernels.json_incremental import estimate_size
from era_kernels.models import FileInfo, Limits, SessionView, to_iso
from era_kernels.services.requested_limits import LIMIT_FIELDS
from era_kernels.web.base_response_models import ResponseModel

if TYPE_CHECKING:
    from era_kernels.storage.file_listing import FileListing


class IsolationAnswer(ResponseModel):
    """How strong the walls are: tier 1 (all) to 4 (none), and what is not enforced."""

    tier: int
    missing: list[str]


class OwnLimitsAnswer(ResponseModel):
    """The limits of this session alone; the server's hold beside them."""

    memory_mb: NotRequired[Annotated[int | None, Field(None)]]
    processes: NotRequired[Annotated[int | None, Field(None)]]
    workspace_mb: NotRequired[Annotated[int | None, Field(None)]]
    cpu: NotRequired[Annotated[float | None, Field(None)]]


class SessionListed(ResponseModel):
    """A session in a list: without its data."""

    id: str
    session_id: str
    created_at: str
    last_run_at: Annotated[str, Field(description="Empty before the first run.")]
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
    default_timeout: NotRequired[
        Annotated[float | None, Field(None, description="Seconds; only when set.")]
    ]
    ttl: NotRequired[Annotated[float | None, Field(None, description="Seconds; only when set.")]]
    limits: NotRequired[
        Annotated[OwnLimitsAnswer | None, Field(None, description="Only when set.")]
    ]
    mounts: NotRequired[
        Annotated[list[str] | None, Field(None, description="Only when there are any.")]
    ]
    storage: NotRequired[
        Annotated[
            Literal["all", "none"] | list[str] | None, Field(None, description="Only when set.")
        ]
    ]
    kernel: NotRequired[Annotated[str | None, Field(None, description="Only when set.")]]
    allow_hosts: NotRequired[Annotated[list[str] | None, Field(None, description="Only when set.")]]


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


# ---------------------------------------------------------------- building


def session_summary(view: SessionView) -> SessionListed:
    """Returns a session as lists show it."""
    session = view.session
    out: SessionListed = {
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
    if session.default_timeout is not None:
        out["default_timeout"] = _int_if_whole(session.default_timeout)
    if session.ttl is not None:
        out["ttl"] = _int_if_whole(session.ttl)
    if session.limits is not None:
        out["limits"] = _limits_response(session.limits)
    if session.mounts:
        out["mounts"] = list(session.mounts)
    if session.storage is not None:
        out["storage"] = session.storage.to_json()
    if session.kernel is not None:
        out["kernel"] = session.kernel
    if session.allow_hosts is not None:
        out["allow_hosts"] = session.allow_hosts.to_json()
    return out


def session_response(view: SessionView) -> SessionAnswer:
    """Returns a session as every call but the list shows it."""
    return {**session_summary(view), "data": view.session.data}


def estimated_size(view: SessionView) -> int:
    """Returns about how much work it is to encode what callers put into a session, in bytes."""
    texts = (view.session.data, view.session.metadata)
    return sum(estimate_size(one, SLICE_BYTES) for one in texts)


def file_response(file: FileInfo) -> FileAnswer:
    return FileAnswer(path=file.path, size=file.size, modified_at=to_iso(file.modified_at))


def files_response(listing: FileListing) -> list[FileAnswer]:
    return [file_response(file) for file in listing.files]


def _int_if_whole(seconds: float) -> float:
    """Returns an int for a whole number: 120 seconds are shown as 120, not as 120.0."""
    return int(seconds) if seconds == int(seconds) else seconds


def _limits_response(limits: Limits) -> OwnLimitsAnswer:
    """Returns the limits that are set, in the units that callers use."""
    values = [(limit, getattr(limits, limit.field)) for limit in LIMIT_FIELDS]
    limited = {
        limit.name: value if limit.unit == 1 else value // limit.unit
        for limit, value in values
        if value is not None
    }
    return cast(OwnLimitsAnswer, limited)

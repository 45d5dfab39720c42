"""Sessions: the stored row, the view for callers and the request for a new one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from era_kernels.models.formatting import JsonObject
from era_kernels.models.internet import HostPatterns
from era_kernels.models.runtime import Limits
from era_kernels.models.storage_namespaces import StorageScope


@dataclass(frozen=True, slots=True)
class Session:
    """The stored row of a session; `directory` is the random name of its directory."""

    id: str
    language: str
    directory: str
    created_at: datetime
    persistent: bool = True
    data: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    last_run_at: datetime | None = None
    default_timeout: float | None = None
    ttl: float | None = None  # seconds without a request after which it is deleted
    allow_internet: bool = False
    allow_public: bool = False
    file_count: int = 0
    total_size: int = 0
    kernel_generation: int = 0
    limits: Limits | None = None  # of this session alone, lower than the server's
    mounts: tuple[str, ...] = ()  # names of directories that the operator offers
    # Why the variables of former runs are lost, if the next run gets another kernel than they had.
    # None: there are none.
    variables_lost: str | None = None
    storage: StorageScope | None = None  # the namespaces that its code may use; None: the server's
    kernel: str | None = None  # the name of its kernel; None: the default of its language
    allow_hosts: HostPatterns | None = None  # that it may reach; None: all that the server allows


class SessionStatus(StrEnum):
    """The state of a session's kernel."""

    IDLE = "idle"
    BUSY = "busy"
    STARTING = "starting"
    STOPPED = "stopped"


UNSANDBOXED_TIER = 4  # no isolation at all


@dataclass(frozen=True, slots=True)
class Isolation:
    """The strength of the isolation: `tier` 1 (all) to 4 (none); `missing` is not enforced."""

    tier: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as callers see it: the stored row and the state of the kernel."""

    session: Session
    status: SessionStatus
    isolation: Isolation


@dataclass(frozen=True, slots=True)
class NewSession:
    """A request for a new session; `language` is an id or an alias, in any case."""

    language: str
    id: str | None = None
    persistent: bool = True
    data: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    default_timeout: float | None = None
    ttl: float | None = None
    allow_internet: bool | None = None
    allow_public: bool | None = None
    limits: Limits | None = None
    mounts: tuple[str, ...] = ()
    storage: StorageScope | None = None
    kernel: str | None = None
    allow_hosts: HostPatterns | None = None
    exist_ok: bool = False  # a session of that id and language is as good


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A user's file in a workspace; `path` is relative with `/`, `size` is in bytes."""

    path: str
    size: int
    modified_at: datetime

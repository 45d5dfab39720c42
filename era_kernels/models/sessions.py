"""Sessions: what is stored of one, what callers wish and see."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from era_kernels.models.formats import JsonObject
from era_kernels.models.runtime import Limits


@dataclass(frozen=True, slots=True)
class Session:
    """What is stored of a session. `directory` is the random name of its directory."""

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
    limits: Limits | None = None  # of its own, lower than the server's
    mounts: tuple[str, ...] = ()  # names of what the operator offers


class SessionStatus(StrEnum):
    """What a session's kernel is doing."""

    IDLE = "idle"
    BUSY = "busy"
    STARTING = "starting"
    STOPPED = "stopped"


UNSANDBOXED_TIER = 4  # the tier


@dataclass(frozen=True, slots=True)
class Isolation:
    """How strong the walls are: `tier` 1 (all) to 4 (none); `missing`: what is not enforced."""

    tier: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as callers see it: the stored part and what is alive of it."""

    session: Session
    status: SessionStatus
    isolation: Isolation


@dataclass(frozen=True, slots=True)
class NewSession:
    """A wish for a session; `language` is an id or an alias, in any case."""

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


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One user file of a workspace; `path` is relative with `/`, `size` in bytes."""

    path: str
    size: int
    modified_at: datetime

"""A link, which opens one file or one port of a session to callers without a token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTarget:
    """What a link opens: a path to read (`GET`) or to replace (`PUT`), or else a port."""

    path: str | None = None
    method: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Opens its target until it expires; `directory` names one session for ever, an id does not."""

    id: str
    session_id: str
    directory: str
    created_at: datetime
    expires_at: datetime
    target: LinkTarget

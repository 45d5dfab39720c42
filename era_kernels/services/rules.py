"""The numbers that bound sessions, as the services need them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from era_kernels.errors import (
    Conflict,
    InvalidId,
    InvalidRequest,
    NotEnforceable,
    QuotaExceeded,
    TooLarge,
)
from era_kernels.models import WITHOUT_WALLS, Isolation, JsonObject, Submission
from era_kernels.storage.files import validate_path
from era_kernels.storage.snapshot import DATA_FILE_NAME

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_SESSION_JSON = 1024 * 1024  # bytes of `data`, and of `metadata`, as JSON


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds, sizes in bytes."""

    default_timeout: float
    max_timeout: float
    max_background_timeout: float
    max_queue: int
    max_sessions: int
    max_kernels: int
    max_execution_output: int
    max_workspace: int
    public_by_default: bool

    def timeout_of(self, submission: Submission, of_session: float | None) -> float:
        """The run's timeout. Raises InvalidRequest."""
        if not submission.background:
            return self.timeout(submission.timeout, of_session)
        asked, most = submission.timeout or self.max_background_timeout, self.max_background_timeout
        if asked > most:
            raise _unfit("timeout", asked, f"of a run in the background must be at most {most:g}")
        return asked

    def timeout(self, asked: float | None, of_session: float | None) -> float:
        """The run's timeout: what was asked, else the session's, else the server's.

        Raises InvalidRequest above `max_timeout` or below zero.
        """
        if not asked:
            return min(of_session or self.default_timeout, self.max_timeout)
        if not 0 < asked <= self.max_timeout:
            raise _unfit("timeout", asked, f"must be at most {self.max_timeout:g}")
        return asked

    def check_timeout(self, seconds: float, name: str) -> None:
        """Raises InvalidRequest unless 0 < seconds ≤ `max_timeout`."""
        if not 0 < seconds <= self.max_timeout:
            raise _unfit(name, seconds, f"must be above 0 and at most {self.max_timeout:g}")


def _unfit(name: str, seconds: float, rule: str) -> InvalidRequest:
    details = [{"field": name, "problem": f"{rule} seconds"}]
    return InvalidRequest(f"`{name}` {rule} seconds, and {seconds:g} is not.", details=details)


def check_id(id: str | None) -> None:
    """A session's id; None stands for one that is made up. Raises InvalidId."""
    if id is not None and not ID.fullmatch(id):
        raise InvalidId(f"A session id must match ^{ID.pattern}$.")


def check_changes(isolation: Isolation, **changes: object) -> None:
    """New values of a session's fields. Raises TooLarge, NotEnforceable."""
    for name in ("data", "metadata"):
        value = changes.get(name)
        if value is not None:
            check_size(value, name)
    if changes.get("allow_internet"):
        check_internet(isolation)


def check_size(value: object, name: str) -> None:
    """Raises TooLarge when a session's `data` or `metadata` takes too many bytes as JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_SESSION_JSON:
        raise TooLarge(
            f"The session's {name} would take {size} bytes as JSON, "
            f"and {MAX_SESSION_JSON} are allowed."
        )


def merged(data: JsonObject, update: JsonObject) -> JsonObject:
    """A shallow merge: keys of `update` win."""
    return {**data, **update}


def seed_of(data: JsonObject) -> str | None:
    """The code that a session's first data brings along, to be stored apart from them."""
    code = data.get("code")
    return code if isinstance(code, str) else None


def check_room(size: int, room: int) -> None:
    """Raises QuotaExceeded."""
    if size > room:
        raise QuotaExceeded(
            f"The session's workspace has room for {max(room, 0)} more bytes.",
            hint="Delete files that are not needed.",
        )


def check_writable(path: str) -> None:
    """A path at which callers may put and delete files. Raises InvalidPath, Conflict."""
    if validate_path(path) == DATA_FILE_NAME:
        raise Conflict(
            f"{DATA_FILE_NAME} mirrors the session's data and is written by the server.",
            hint="Change `data` with PATCH on the session, or `update_data` of a run.",
        )


def check_internet(isolation: Isolation) -> None:
    """Raises NotEnforceable where there are walls: none of them has a door yet.

    Without any, the wish is stored, and `isolation` tells that nothing enforces it.
    """
    if isolation.tier < WITHOUT_WALLS:
        raise NotEnforceable(
            "Internet access cannot be given to sessions: the walls in force have no door.",
            hint="Create the session without allowInternetAccess.",
        )

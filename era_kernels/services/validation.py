"""Checks what callers ask for, against the server's limits."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Protocol

from era_kernels.concurrency.cooperative import Stepwise, run_cooperatively
from era_kernels.errors import (
    Conflict,
    Forbidden,
    InvalidId,
    InvalidRequest,
    NotEnforceable,
    QuotaExceeded,
    TooLarge,
)
from era_kernels.json_incremental import iterencode
from era_kernels.kernels.kernelspecs import Kernelspec
from era_kernels.models import UNSANDBOXED_TIER, ExecSubmission, Isolation, JsonObject, Submission
from era_kernels.storage.file_listing import DATA_FILE_NAME
from era_kernels.storage.files import validate_path

SESSION_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_SESSION_JSON_BYTES = 1024 * 1024  # bytes of `data`, and of `metadata`, as JSON
MAX_COUNTED_BYTES = 2 * MAX_SESSION_JSON_BYTES  # bytes up to which a refusal tells how many


class Host(Protocol):
    """Names what is checked of the host of machines."""

    @property
    def isolation(self) -> Isolation:
        """The strength of the isolation."""

    @property
    def enforceable(self) -> frozenset[str]:
        """The settings of one session that are enforced."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Holds the server's limits on sessions: times in seconds, sizes in bytes."""

    default_timeout: float
    max_timeout: float
    max_background_timeout: float
    max_queue: int
    max_sessions: int
    max_kernels: int
    max_execution_output: int
    max_workspace: int
    public_by_default: bool
    allow_internet: bool  # callers may give sessions internet access

    def timeout_of(
        self, submission: Submission | ExecSubmission, session_default: float | None
    ) -> float:
        """Returns the timeout of a run or a program, also of one in the background.

        Raises InvalidRequest.
        """
        if not submission.background:
            return self.foreground_timeout(submission.timeout, session_default)
        requested, maximum = (
            submission.timeout or self.max_background_timeout,
            self.max_background_timeout,
        )
        if requested > maximum:
            raise _timeout_error(
                "timeout", requested, f"of a run in the background must be at most {maximum:g}"
            )
        return requested

    def foreground_timeout(self, requested: float | None, session_default: float | None) -> float:
        """Returns the timeout that was asked for, else the session's, else the server's.

        Raises InvalidRequest above `max_timeout` or below zero.
        """
        if not requested:
            return min(session_default or self.default_timeout, self.max_timeout)
        if not 0 < requested <= self.max_timeout:
            raise _timeout_error("timeout", requested, f"must be at most {self.max_timeout:g}")
        return requested

    def check_timeout(self, seconds: float, name: str) -> None:
        """Raises InvalidRequest unless 0 < seconds ≤ `max_timeout`."""
        if not 0 < seconds <= self.max_timeout:
            raise _timeout_error(name, seconds, f"must be above 0 and at most {self.max_timeout:g}")

    def check_internet(self, **changes: object) -> None:
        """Raises Forbidden for internet access that the operator gives to no session."""
        if changes.get("allow_internet") and not self.allow_internet:
            raise Forbidden(
                "This server gives no session internet access.",
                hint="Its operator decides that, with the setting allow_internet.",
            )


def _timeout_error(name: str, seconds: float, rule: str) -> InvalidRequest:
    details = [{"field": name, "problem": f"{rule} seconds"}]
    return InvalidRequest(f"`{name}` {rule} seconds, and {seconds:g} is not.", details=details)


def new_session_id() -> str:
    """Returns an id that nobody guesses, for a session whose caller named none."""
    return f"sess-{secrets.token_hex(16)}"


def check_session_id(session_id: str | None) -> None:
    """Checks a session's id; None, for a generated id, is fine. Raises InvalidId."""
    if session_id is not None and not SESSION_ID_PATTERN.fullmatch(session_id):
        raise InvalidId(f"A session id must match ^{SESSION_ID_PATTERN.pattern}$.")


async def check_changes(host: Host, **changes: object) -> None:
    """Checks new values of a session's fields. Raises TooLarge, NotEnforceable."""
    for name in ("data", "metadata"):
        value = changes.get(name)
        if value:
            await check_json_size(value, name)
    if changes.get("allow_internet") or changes.get("allow_hosts") is not None:
        check_internet(host)


async def check_submission(submission: Submission | ExecSubmission, kernelspec: Kernelspec) -> None:
    """Raises InvalidRequest for variables of a run on a kernel that cannot take any.

    Raises TooLarge for an `update_data` that is too large, whatever it is merged into.
    """
    if not isinstance(submission, Submission):
        return
    if submission.env and not kernelspec.fence:
        rule = f"cannot be given to a run: the kernel {kernelspec.name} takes none"
        raise InvalidRequest(
            f"`env` {rule}.",
            details=[{"field": "env", "problem": rule}],
            hint="Set them in the code, or run a program beside the kernel with POST …/exec.",
        )
    if submission.update_data:
        await check_json_size(submission.update_data, "data")


async def check_json_size(value: object, name: str) -> None:
    """Raises TooLarge when a session's `data` or `metadata` takes too many bytes as JSON.

    Lets other tasks run while it looks at a large value.
    """
    size = await run_cooperatively(_json_size_stepwise(value))
    if size > MAX_SESSION_JSON_BYTES:
        counted = f"more than {MAX_COUNTED_BYTES}" if size > MAX_COUNTED_BYTES else size
        raise TooLarge(
            f"The session's {name} would take {counted} bytes as JSON, "
            f"and {MAX_SESSION_JSON_BYTES} are allowed."
        )


def _json_size_stepwise(value: object) -> Stepwise[int]:
    """Returns the bytes of a value as JSON, or the first count that is far too much: of a bomb."""
    size = 0
    for piece in iterencode(value):
        size += len(piece)
        if size > MAX_COUNTED_BYTES:
            break
        yield
    return size


def merge_data(data: JsonObject, update: JsonObject) -> JsonObject:
    """Returns a shallow merge, in which keys of `update` win."""
    return {**data, **update}


def initial_code(data: JsonObject) -> str | None:
    """Returns the code in a new session's data, if any, which is stored apart from the data."""
    code = data.get("code")
    return code if isinstance(code, str) else None


def check_quota(size: int, available: int) -> None:
    """Raises QuotaExceeded if `size` is above `available`, both in bytes."""
    if size > available:
        raise QuotaExceeded(
            f"The session's workspace has room for {max(available, 0)} more bytes.",
            hint="Delete files that are not needed. What bounds the workspace is its session's "
            "`limits.workspace_mb`, and session_workspace.",
        )


def check_writable_path(path: str) -> None:
    """Checks that callers may put or delete a file at `path`. Raises InvalidPath, Conflict."""
    if validate_path(path) == DATA_FILE_NAME:
        raise Conflict(
            f"{DATA_FILE_NAME} mirrors the session's data and is written by the server.",
            hint="Change `data` with PATCH on the session, or `update_data` of a run.",
        )


def check_internet(host: Host) -> None:
    """Raises NotEnforceable where sessions can have no internet access that can be switched.

    Without a sandbox the request is stored, and `isolation` tells that nothing enforces it.
    """
    if "internet" not in host.enforceable and host.isolation.tier < UNSANDBOXED_TIER:
        raise NotEnforceable(
            "Internet access cannot be given to sessions: they have no network of their own here.",
            hint="It needs isolation of tier 1 or 2, with network namespaces; `era-kernels doctor` "
            "tells what this host lacks for that.",
        )

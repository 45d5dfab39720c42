"""Turns what a worker answers into results, or into the errors of the domain."""

from __future__ import annotations

from dataclasses import dataclass

from era_kernels.errors import (
    EraError,
    InsufficientStorage,
    InvalidRequest,
    QuotaExceeded,
    SqlError,
    SqlReadOnly,
    SqlTimeout,
    StorageFailed,
    TooLarge,
    Unavailable,
)
from era_kernels.models import JsonObject, end_sentence, format_size
from era_kernels.storage.d1.worker.connections import MAX_MEMORY
from era_kernels.storage.d1.worker.outcomes import Outcome
from era_kernels.storage.d1.worker_process import Reply

_META = (
    "duration", "changes", "last_row_id", "rows_read", "rows_written", "changed_db"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class D1Limits:
    """Bounds what a request may take: seconds, rows, bytes of rows, and bytes of a database."""

    timeout: float = 30.0
    max_rows: int = 10_000
    max_result: int = 32 * 1024 * 1024
    max_database: int = 1024**3


@dataclass(frozen=True, slots=True)
class D1Result:
    """What one statement did: its rows as a JSON array, None without columns, and figures."""

    rows: bytes | None
    meta: JsonObject


def results_of(reply: Reply) -> list[D1Result]:
    """Returns the results in a reply. Raises StorageFailed for a reply that makes no sense."""
    results, offset = [], 0
    try:
        for found in reply.head["results"]:
            meta = {name: found[name] for name in _META}
            meta["size_after"] = reply.head["size"]
            length = found["length"]
            if length is not None:
                offset += length
            rows = None if length is None else reply.rows[offset - length : offset]
            results.append(D1Result(rows, meta))
        if offset != len(reply.rows):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise StorageFailed("The worker's answer makes no sense.") from error
    return results


def timeout_error(limits: D1Limits, *, may_have_changed: bool = False) -> SqlTimeout:
    """Returns the error for SQL past its deadline.

    `may_have_changed` is for a worker that was killed, perhaps while it made a change durable.
    """
    hint = "Read fewer rows, add an index, or do the work in smaller steps."
    stopped = f"The SQL was stopped after {limits.timeout:g} seconds (sql_timeout)"
    if may_have_changed:
        return SqlTimeout(
            f"{stopped} by ending its worker; if that was storing a change, it may be stored.",
            hint=f"Look before you repeat it. {hint}",
        )
    return SqlTimeout(f"{stopped}; it changed nothing.", hint=hint)


def error_of(head: JsonObject, limits: D1Limits, max_size: int) -> EraError:
    """Returns the error for a request that ended otherwise than `done`."""
    outcome, details = head.get("outcome"), head.get("details") or None
    if outcome in (Outcome.SQL_ERROR, Outcome.READ_ONLY):
        return _sql_error(head, details)
    if outcome == Outcome.BAD_PARAMS:
        return InvalidRequest(end_sentence(f"`params` is wrong: {details}"))
    if outcome == Outcome.TIMEOUT:
        return timeout_error(limits)
    if outcome in (Outcome.TOO_MANY_ROWS, Outcome.RESULT_TOO_LARGE, Outcome.OUT_OF_MEMORY):
        return _too_large_error(outcome, limits)
    if outcome == Outcome.DATABASE_FULL:
        return _full_error(limits, max_size)
    if outcome == Outcome.DISK_RESERVED:
        return InsufficientStorage(
            "The change was undone: with it the server's disk would have less left than is kept "
            "free (disk_reserve). Deleting works.",
            hint="Change less at once, or free room on the disk; nothing needs to be restarted.",
        )
    if outcome == Outcome.DISK_FULL:
        return InsufficientStorage(
            "There is no room left where the server stores its data.",
            hint="Free disk space; nothing needs to be restarted.",
        )
    if outcome == Outcome.BUSY:
        return Unavailable("Another process uses the database.", retry_after=1)
    return StorageFailed("The database cannot be used: its file is damaged or not a database.")


def _sql_error(head: JsonObject, details: str | None) -> SqlError:
    reason, index = head.get("reason"), head.get("index")
    where = "The SQL" if not index else f"Entry {index} of the batch, counted from 0,"
    if head["outcome"] == Outcome.READ_ONLY:
        return SqlReadOnly(
            "A query only reads, and this SQL changes something.",
            details=details,
            hint="Send it to …/exec or …/batch.",
        )
    if reason:
        return SqlError(end_sentence(f"{where} was refused: {reason}"), details=details)
    return SqlError(end_sentence(f"{where} failed: {details}"), details=details)


def _too_large_error(outcome: Outcome, limits: D1Limits) -> TooLarge:
    if outcome == Outcome.TOO_MANY_ROWS:
        what = f"The SQL returns more than {limits.max_rows} rows (sql_max_rows)"
    elif outcome == Outcome.RESULT_TOO_LARGE:
        what = f"The rows are larger than {format_size(limits.max_result)} (sql_max_result)"
    else:
        what = f"The SQL needs more than {format_size(MAX_MEMORY)} of memory"
    return TooLarge(f"{what}; it changed nothing.", hint="Ask for a part, with LIMIT and OFFSET.")


def _full_error(limits: D1Limits, max_size: int) -> TooLarge:
    hint = "Delete something, or let the server's operator raise the setting."
    if max_size < limits.max_database:
        return QuotaExceeded(
            f"The database would grow past {format_size(max_size)}, which is what "
            "namespace_quota and storage_quota leave for it.",
            details={"allowed": max_size},
            hint=hint,
        )
    return TooLarge(
        f"The database would grow past {format_size(limits.max_database)} (sql_max_database).",
        hint=hint,
    )

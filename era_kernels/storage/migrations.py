"""Defines the schema of era.db as migrations; a released migration is never changed."""

from __future__ import annotations

from era_kernels.storage.sqlite_utils_import import Database, Migrations

MIGRATIONS = Migrations("era_kernels")


@MIGRATIONS()
def m001_sessions(db: Database) -> None:
    """Creates the sessions; long columns stand last, so that lists need not read them."""
    db.table("sessions").create(
        {
            "id": str,
            "language": str,
            "directory": str,
            "created_at": str,
            "persistent": int,
            "last_run_at": str,
            "default_timeout": float,
            "allow_internet": int,
            "allow_public": int,
            "file_count": int,
            "total_size": int,
            "kernel_generation": int,
            "metadata": str,
            "data": str,
        },
        pk="id",
        not_null={"language", "directory", "created_at", "metadata", "data"},
    )
    db.table("sessions").create_index(["directory"], unique=True)
    db.table("sessions").create_index(["created_at"])
    db.table("sessions").create_index(["language", "created_at"])


@MIGRATIONS()
def m002_executions(db: Database) -> None:
    """Creates the index of executions; `directory` names one session for ever, an id does not."""
    db.table("executions").create(
        {
            "id": str,
            "session_id": str,
            "directory": str,
            "status": str,
            "created_at": str,
            "started_at": str,
            "finished_at": str,
            "exit_code": int,
            "cause": str,
            "size": int,
            "code": str,
        },
        pk="id",
        not_null={"session_id", "directory", "status", "created_at", "size", "code"},
    )
    db.table("executions").create_index(["session_id", "created_at"])
    db.execute(
        "CREATE INDEX executions_unfinished ON executions (status) WHERE status != 'finished'"
    )


@MIGRATIONS()
def m003_codes_and_ttl(db: Database) -> None:
    """Adds a table of stored code, which may be long, and a session's time to live."""
    db.table("codes").create(
        {"directory": str, "updated_at": str, "description": str, "code": str},
        pk="directory",
        not_null={"updated_at", "description", "code"},
    )
    sessions = db.table("sessions")
    short = [name for name in sessions.columns_dict if name not in ("metadata", "data")]
    sessions.add_column("ttl", float)
    sessions.transform(column_order=[*short, "ttl"])


@MIGRATIONS()
def m004_limits_and_mounts(db: Database) -> None:
    """Adds a session's limits as a JSON object, and its mounts' names as a JSON list."""
    sessions = db.table("sessions")
    short = [name for name in sessions.columns_dict if name not in ("metadata", "data")]
    sessions.add_column("limits", str)
    sessions.add_column("mounts", str)
    sessions.transform(column_order=[*short, "limits", "mounts"])


@MIGRATIONS()
def m005_idempotency(db: Database) -> None:
    """Adds idempotency keys: a key stands for at most one execution of a session."""
    executions = db.table("executions")
    executions.add_column("idempotency_key", str)
    executions.add_column("body_digest", bytes)
    executions.transform(column_order=[name for name in executions.columns_dict if name != "code"])
    db.execute(
        "CREATE UNIQUE INDEX executions_keys ON executions (directory, idempotency_key) "
        "WHERE idempotency_key IS NOT NULL"
    )


@MIGRATIONS()
def m006_variables_lost(db: Database) -> None:
    """Adds why a session's variables are lost; those of kernels so far went with their server."""
    sessions = db.table("sessions")
    short = [name for name in sessions.columns_dict if name not in ("metadata", "data")]
    sessions.add_column("variables_lost", str)
    sessions.transform(column_order=[*short, "variables_lost"])
    db.execute(
        "UPDATE sessions SET variables_lost = 'the server was restarted' "
        "WHERE kernel_generation > 0 AND last_run_at IS NOT NULL"
    )


@MIGRATIONS()
def m007_storage_usage(db: Database) -> None:
    """Creates the counters of KV, D1 and R2: a row per namespace, and one per type with none."""
    db.table("storage_usage").create(
        {"type": str, "namespace": str, "count": int, "size": int},
        pk=("type", "namespace"),
        not_null={"count", "size"},
    )

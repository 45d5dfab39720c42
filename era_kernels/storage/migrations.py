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


@MIGRATIONS()
def m008_kv_and_tables_of_d1(db: Database) -> None:
    """Creates KV, whose long columns stand last, the list of D1's tables, and a counter.

    Text is compared as UTF-8 bytes. `expires_at` is in seconds of Unix time, and `size` is that of
    the value. `kv_list` holds all that a page of keys shows, in its order, so that it is read from
    a few neighbouring pages of the file. `overhead` counts what takes room beside the sizes: keys
    and metadata.
    """
    db.table("kv").create(
        {
            "namespace": str,
            "key": str,
            "created_at": str,
            "updated_at": str,
            "size": int,
            "expires_at": float,
            "metadata": str,
            "value": str,
        },
        not_null={"namespace", "key", "created_at", "updated_at", "size", "value"},
    )
    db.table("kv").create_index(["namespace", "key"], "kv_keys", unique=True)
    db.table("kv").create_index(["namespace", "key", "expires_at", "metadata"], "kv_list")
    db.table("kv").create_index(["updated_at"], "kv_updated")
    db.table("kv").create_index(["namespace", "updated_at"], "kv_namespace_updated")
    db.execute(
        "CREATE INDEX kv_expiring ON kv (expires_at, namespace, size) WHERE expires_at IS NOT NULL"
    )
    db.table("d1_tables").create(
        {"namespace": str, "name": str, "created_at": str, "updated_at": str, "size": int},
        pk=("namespace", "name"),
        not_null={"created_at", "updated_at", "size"},
    )
    db.table("d1_tables").create_index(["updated_at"], "d1_tables_updated")
    db.table("d1_tables").create_index(["namespace", "updated_at"], "d1_tables_namespace_updated")
    db.table("d1_tables").create_index(["name"], "d1_tables_names")
    db.table("storage_usage").add_column("overhead", int, not_null_default=0)


@MIGRATIONS()
def m010_r2(db: Database) -> None:
    """Creates the index of R2's objects; `blob` is the random name of an object's file."""
    db.table("r2_objects").create(
        {
            "namespace": str,
            "key": str,
            "blob": str,
            "size": int,
            "etag": str,
            "content_type": str,
            "custom_metadata": str,
            "created_at": str,
            "updated_at": str,
        },
        pk=("namespace", "key"),
        not_null={"blob", "size", "etag", "custom_metadata", "created_at", "updated_at"},
    )
    db.table("r2_objects").create_index(["blob"], unique=True)
    db.table("r2_objects").create_index(["updated_at"])


@MIGRATIONS()
def m011_storage_scope(db: Database) -> None:
    """Adds the namespaces that a session's code may use: a word or a list, as JSON."""
    sessions = db.table("sessions")
    short = [name for name in sessions.columns_dict if name not in ("metadata", "data")]
    sessions.add_column("storage", str)
    sessions.transform(column_order=[*short, "storage"])


@MIGRATIONS()
def m012_resources(db: Database) -> None:
    """Adds the indexes that the list of resources still needs."""
    db.execute("CREATE INDEX sessions_updated ON sessions (coalesce(last_run_at, created_at))")
    db.table("r2_objects").create_index(["namespace", "updated_at"], "r2_namespace_updated")


@MIGRATIONS()
def m013_kernel(db: Database) -> None:
    """Adds the name of a session's kernel, where its language has more than one."""
    sessions = db.table("sessions")
    short = [name for name in sessions.columns_dict if name not in ("metadata", "data")]
    sessions.add_column("kernel", str)
    sessions.transform(column_order=[*short, "kernel"])
    # `transform` makes the table anew and leaves out an index on an expression.
    db.execute(
        "CREATE INDEX IF NOT EXISTS sessions_updated "
        "ON sessions (coalesce(last_run_at, created_at))"
    )


@MIGRATIONS()
def m014_deletions(db: Database) -> None:
    """Creates the list of what is to be removed: directories and blobs whose rows are deleted."""
    db.execute(
        "CREATE TABLE deletions (kind TEXT, name TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID"
    )


@MIGRATIONS()
def m015_allow_hosts(db: Database) -> None:
    """Adds the hosts that a session may reach: a list of patterns, as JSON."""
    sessions = db.table("sessions")
    short = [name for name in sessions.columns_dict if name not in ("metadata", "data")]
    sessions.add_column("allow_hosts", str)
    sessions.transform(column_order=[*short, "allow_hosts"])
    # `transform` makes the table anew and leaves out an index on an expression.
    db.execute(
        "CREATE INDEX IF NOT EXISTS sessions_updated "
        "ON sessions (coalesce(last_run_at, created_at))"
    )


@MIGRATIONS()
def m016_links(db: Database) -> None:
    """Creates the links; `digest` is that of the secret, which is nowhere itself."""
    db.table("links").create(
        {
            "digest": bytes,
            "id": str,
            "directory": str,
            "created_at": str,
            "expires_at": str,
            "path": str,
            "method": str,
            "port": int,
        },
        pk="digest",
        not_null={"id", "directory", "created_at", "expires_at"},
    )
    db.table("links").create_index(["directory", "created_at"])
    db.table("links").create_index(["expires_at"])


@MIGRATIONS()
def m017_requests(db: Database) -> None:
    """Adds which executions answered a request to stored code: others begin as many as they like.

    The long column stands last.
    """
    executions = db.table("executions")
    executions.add_column("is_request", int, not_null_default=0)
    executions.transform(column_order=[name for name in executions.columns_dict if name != "code"])

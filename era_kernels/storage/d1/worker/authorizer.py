"""Decides what statements may do: SQLite asks here for every action while it compiles one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

OK, DENY = sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY

# Tables in which virtual tables keep their data, as suffixes of the names of those: FTS and R-Tree.
SHADOW_SUFFIXES = (
    "_data", "_idx", "_content", "_docsize", "_config", "_node", "_rowid", "_parent",
    "_segments", "_segdir", "_stat",
)  # fmt: skip

ALLOWED_MODULES = frozenset({"fts5", "fts5vocab", "rtree", "rtree_i32"})
# Modules whose tables need no CREATE. All others that SQLite was built with are denied: they tell
# of the process (`sqlite_stmt`), or read pages past all rules (`sqlite_dbpage`).
ALLOWED_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree", "generate_series", *ALLOWED_MODULES})
DENIED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "sqlite_log"})

# Pragmas that only tell something.
READING_PRAGMAS = frozenset({
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo",
    "foreign_key_list", "foreign_key_check", "collation_list", "function_list", "compile_options",
    "quick_check", "integrity_check",
})  # fmt: skip
# Pragmas that tell something as long as they get no value.
READABLE_PRAGMAS = frozenset({
    "foreign_keys", "user_version", "schema_version", "data_version", "application_id", "encoding",
    "page_count", "page_size", "freelist_count", "defer_foreign_keys",
})  # fmt: skip
# Values that change nothing, or nothing beyond the transaction.
SETTABLE_PRAGMAS = {
    "foreign_keys": frozenset({"on", "1", "true", "yes"}),
    "defer_foreign_keys": frozenset({"on", "1", "true", "yes", "off", "0", "false", "no"}),
}

_DATA_CHANGES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
# Actions that change something → which argument names the table that changes.
_CHANGES: dict[int, int] = {
    sqlite3.SQLITE_INSERT: 0,
    sqlite3.SQLITE_UPDATE: 0,
    sqlite3.SQLITE_DELETE: 0,
    sqlite3.SQLITE_CREATE_TABLE: 0,
    sqlite3.SQLITE_CREATE_INDEX: 1,
    sqlite3.SQLITE_CREATE_TRIGGER: 1,
    sqlite3.SQLITE_CREATE_VIEW: 0,
    sqlite3.SQLITE_CREATE_VTABLE: 0,
    sqlite3.SQLITE_DROP_TABLE: 0,
    sqlite3.SQLITE_DROP_INDEX: 1,
    sqlite3.SQLITE_DROP_TRIGGER: 1,
    sqlite3.SQLITE_DROP_VIEW: 0,
    sqlite3.SQLITE_DROP_VTABLE: 0,
    sqlite3.SQLITE_ALTER_TABLE: 1,
    sqlite3.SQLITE_REINDEX: 0,
    sqlite3.SQLITE_ANALYZE: 0,
}
_GROWTHS = _CHANGES.keys() - {
    sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_DROP_VIEW, sqlite3.SQLITE_DROP_VTABLE,
}  # fmt: skip
# First words of statements that only read, but for data changes after WITH and EXPLAIN.
_READING_KEYWORDS = frozenset({"SELECT", "VALUES", "WITH", "PRAGMA", "EXPLAIN"})
_READS = frozenset({
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
})  # fmt: skip
_TEMPORARY = frozenset({
    sqlite3.SQLITE_CREATE_TEMP_INDEX, sqlite3.SQLITE_CREATE_TEMP_TABLE,
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_VIEW,
    sqlite3.SQLITE_DROP_TEMP_INDEX, sqlite3.SQLITE_DROP_TEMP_TABLE,
    sqlite3.SQLITE_DROP_TEMP_TRIGGER, sqlite3.SQLITE_DROP_TEMP_VIEW,
})  # fmt: skip
_DENIED = {
    sqlite3.SQLITE_ATTACH: "ATTACH and VACUUM are not allowed",
    sqlite3.SQLITE_DETACH: "DETACH is not allowed",
    sqlite3.SQLITE_TRANSACTION: (
        "BEGIN, COMMIT and ROLLBACK are not allowed: each request is one transaction"
    ),
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT is not allowed: each request is one transaction",
}


class Authorizer:
    """Allows what is listed and denies all else; `refusal` says why.

    `is_write` says whether it was for a write, `is_growth` whether for one that takes room.

    Virtual tables change their shadow tables by statements of their own, while a statement runs.
    So a statement is checked before (`is_checking`), and only then it runs.
    """

    def __init__(self, is_read_only: bool, modules: Iterable[str]) -> None:
        self.is_read_only = is_read_only
        self.is_trusted = True  # the worker's own statements
        self.is_checking = False
        self.shadow_tables: frozenset[str] = frozenset()
        self.keyword = ""
        self.refusal = ""
        self.is_write = False
        self.may_grow = True  # False where the disk has no room for more
        self.is_growth = False
        self.has_grown = False  # since the request began, by what was compiled for it
        self.changed_tables: set[str] = set()
        self._denied_tables = frozenset(
            name for name in modules if name not in ALLOWED_TABLE_FUNCTIONS
        )

    def begin(self, keyword: str, *, is_checking: bool) -> None:
        """Prepares for a user's statement that begins with this word."""
        self.keyword = keyword
        self.is_checking = is_checking
        self.is_trusted = False
        self.refusal = ""
        self.is_write = False
        self.is_growth = False

    def begin_request(self, *, may_grow: bool) -> None:
        """Forgets what was noted of the request before."""
        self.may_grow = may_grow
        self.has_grown = False
        self.changed_tables.clear()

    def __call__(
        self,
        action: int,
        first: str | None,
        second: str | None,
        database: str | None,
        source: str | None,
    ) -> int:
        """Answers SQLite; the arguments are as `sqlite3_set_authorizer` describes them."""
        if self.is_trusted:
            return OK
        refusal = self._refuse(action, first or "", second, database, source)
        if refusal is None:
            return OK
        self.refusal = self.refusal or refusal
        return DENY

    def _refuse(
        self,
        action: int,
        first: str,
        second: str | None,
        database: str | None,
        source: str | None,
    ) -> str | None:
        if action in _READS:
            return self._refuse_read(action, first, second or "")
        if action == sqlite3.SQLITE_PRAGMA:
            return _refuse_pragma(first.lower(), second)
        if action in _CHANGES:
            table = (first, second or "")[_CHANGES[action]].lower()
            # ALTER looks for names in the schema of temporary tables, too, which is empty.
            is_alter = action == sqlite3.SQLITE_UPDATE and self.keyword == "ALTER"
            if database != "temp" or (is_alter and table == "sqlite_temp_master"):
                return self._refuse_change(action, table, second or "", source)
        if action in _TEMPORARY or action in _CHANGES:
            self.is_write = self.is_read_only
            return "temporary tables are not allowed: no request sees those of another"
        return _DENIED.get(action, "this kind of statement is not allowed")

    def _refuse_read(self, action: int, first: str, second: str) -> str | None:
        if action == sqlite3.SQLITE_FUNCTION and second.lower() in DENIED_FUNCTIONS:
            return f"the function {second.lower()} is not allowed"
        if action == sqlite3.SQLITE_READ and first.lower() in self._denied_tables:
            return f"the table {first.lower()} is not allowed"
        return None

    def _refuse_change(
        self, action: int, table: str, module: str, source: str | None
    ) -> str | None:
        is_shadow = table in self.shadow_tables
        if self.is_read_only:
            if self.keyword in _READING_KEYWORDS and (
                is_shadow or not _is_data_change(action, table)
            ):
                # A virtual table that prepares itself; the read-only connection takes care of it.
                return None
            self.is_write = True
            return "a query only reads"
        # What DROP and virtual tables write to tables of their own gives room back.
        if action in _GROWTHS and self.keyword not in ("DROP", "EXPLAIN") and not is_shadow:
            if not self.may_grow:
                self.is_growth = True
                return "the disk has no room for more"
            self.has_grown = True
        if action in (sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_REINDEX):
            return None
        if is_shadow and (self.is_checking or source is not None):
            return f"{table} belongs to a virtual table, which changes it itself"
        if action == sqlite3.SQLITE_CREATE_VTABLE and module.lower() not in ALLOWED_MODULES:
            return f"virtual tables of {module} are not allowed"
        if (
            table.startswith("sqlite_stat")
            and action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE)
            and self.keyword != "ANALYZE"
        ):
            return f"only ANALYZE changes {table}"
        if action in _DATA_CHANGES:
            self.changed_tables.add(table)
        return None


def _is_data_change(action: int, table: str) -> bool:
    return action in _DATA_CHANGES and table not in ("sqlite_master", "sqlite_temp_master")


def _refuse_pragma(name: str, value: str | None) -> str | None:
    if name in READING_PRAGMAS or (value is None and name in READABLE_PRAGMAS):
        return None
    if value is not None and value.lower() in SETTABLE_PRAGMAS.get(name, ()):
        return None
    return f"PRAGMA {name} is not allowed" + (" with a value" if name in READABLE_PRAGMAS else "")

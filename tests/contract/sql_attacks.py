"""SQL that wants more than its database: what each is, and how it must be answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from era_kernels.storage.d1.worker.authorizer import (
    READABLE_PRAGMAS,
    READING_PRAGMAS,
    SETTABLE_PRAGMAS,
)

# What every attack finds: tables, full-text search, an R-Tree and a view.
SETUP = """
    CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, a);
    CREATE TABLE IF NOT EXISTS u (a);
    CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(a);
    CREATE VIRTUAL TABLE IF NOT EXISTS r USING rtree(id, a, b);
    CREATE VIEW IF NOT EXISTS v AS SELECT * FROM t;
    DELETE FROM t; DELETE FROM f; DELETE FROM r;
    INSERT INTO t (a) VALUES ('kept');
    INSERT INTO f VALUES ('some words');
    INSERT INTO r VALUES (1, 2, 3);
    ANALYZE
"""
COUNT = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c{limit}) "
ENDLESS, MANY = COUNT.format(limit=""), COUNT.format(limit=" LIMIT 100000")
MILLION = COUNT.format(limit=" LIMIT 1000000")

REFUSED = frozenset({(400, "SQL_ERROR")})
READ_ONLY = frozenset({(400, "SQL_READ_ONLY")})
LATE = frozenset({(408, "SQL_TIMEOUT")})
LARGE = frozenset({(413, "TOO_LARGE")})
STOPPED = LATE | LARGE | REFUSED  # whichever bound is met first
HARMLESS = frozenset({(200, "")})


@dataclass(frozen=True)
class Attack:
    """One request, and the answers that are right."""

    name: str
    sql: str
    expected: frozenset[tuple[int, str]] = REFUSED
    mode: str = "exec"

    def __str__(self) -> str:
        return self.name


def _denied() -> Iterator[Attack]:
    for sql in (
        "ATTACH 'x.db' AS x", "ATTACH DATABASE ':memory:' AS x", "ATTACH '' AS x",
        "ATTACH 'file:../../era.db?mode=ro' AS x", "ATTACH ? AS x", "DETACH main", "DETACH x",
        "VACUUM", "VACUUM main", "VACUUM INTO 'copy.db'", "VACUUM INTO '/tmp/copy.db'",
        "BEGIN", "BEGIN EXCLUSIVE", "COMMIT", "END", "ROLLBACK", "SAVEPOINT s", "RELEASE s",
        "ROLLBACK TO s", "SELECT 1; COMMIT; SELECT 2", "/* x */ COMMIT -- y",
        "SELECT load_extension('x')", "SELECT load_extension('x', 'y')", "SELECT LOAD_EXTENSION(1)",
        "SELECT fts3_tokenizer('simple')", "SELECT fts3_tokenizer('x', x'00')",
        "SELECT readfile('/etc/passwd')", "SELECT writefile('x', 'y')", "SELECT edit('x')",
        "SELECT sqlite_log(1, 'x')", "SELECT eval('SELECT 1')",
        "CREATE VIEW w AS SELECT load_extension('x'); SELECT * FROM w",
        "CREATE VIRTUAL TABLE x USING fts3(a)", "CREATE VIRTUAL TABLE x USING fts4(a)",
        "CREATE VIRTUAL TABLE x USING dbstat", "CREATE VIRTUAL TABLE x USING sqlite_stmt",
        "CREATE VIRTUAL TABLE x USING csv(filename='/etc/passwd')",
        "CREATE VIRTUAL TABLE x USING zipfile('x')", "CREATE VIRTUAL TABLE x USING nothing",
        "CREATE VIRTUAL TABLE temp.x USING fts5(a)", "SELECT * FROM dbstat",
        "SELECT count(*) FROM DBSTAT", "SELECT * FROM sqlite_stmt", "SELECT * FROM sqlite_dbpage",
        "SELECT * FROM fts3tokenize", "SELECT * FROM bytecode('SELECT 1')",
        "SELECT * FROM fsdir('/')", "UPDATE sqlite_dbpage SET data = x'00'",
        "CREATE TEMP TABLE x (a)", "CREATE TEMPORARY TABLE x AS SELECT 1", "CREATE TABLE temp.x (a)", "CREATE TABLE TEMP.x AS SELECT 1", "CREATE VIEW temp.x AS SELECT 1", "CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN SELECT 1; END", "CREATE INDEX temp.x ON t (a)", "INSERT INTO sqlite_temp_master VALUES (1, 2, 3, 4, 5)", "CREATE VIRTUAL TABLE temp.x USING rtree(id, a, b)", "DROP TABLE temp.t", "UPDATE temp.sqlite_temp_master SET sql = 1",
        "CREATE TEMP VIEW x AS SELECT 1", "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        f"CREATE TEMP TABLE x AS {ENDLESS} SELECT randomblob(1000) FROM c",
        "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 1, 'CREATE TABLE x (a)')",
        "UPDATE sqlite_schema SET sql = 'x'", "DELETE FROM sqlite_master", "DROP TABLE sqlite_master",
        "UPDATE sqlite_master SET rootpage = 2 WHERE name = 'u'", "ALTER TABLE sqlite_master RENAME TO x",
        "CREATE TABLE sqlite_x (a)", "CREATE INDEX x ON sqlite_master (name)",
        "INSERT INTO sqlite_stat1 VALUES ('t', NULL, '1')", "UPDATE sqlite_stat1 SET stat = 'x'",
        "PRAGMA writable_schema = on; UPDATE sqlite_master SET sql = 'x'",
        "CREATE TRIGGER x AFTER INSERT ON sqlite_master BEGIN SELECT 1; END",
    ):  # fmt: skip
        yield Attack(sql, sql)


def _pragmas() -> Iterator[Attack]:
    """Every pragma that SQLite knows, read and set, in several spellings."""
    with closing(sqlite3.connect(":memory:")) as connection:
        names = [name for (name,) in connection.execute("PRAGMA pragma_list")]
    names += ["key", "rekey", "hexkey", "nothing", "case_sensitive_like", "temp_store_directory"]
    for name in sorted(set(names)):
        # SQLite does nothing for what it does not know, so such a one could be harmless; it is not.
        readable = name in READING_PRAGMAS | READABLE_PRAGMAS
        expected = HARMLESS if readable else REFUSED
        yield Attack(f"PRAGMA {name}", f"PRAGMA {name}", expected)
        readers = READING_PRAGMAS - {"foreign_key_check"}  # which wants a table that is there
        settable = name in readers or "1" in SETTABLE_PRAGMAS.get(name, ())
        for sql in (f"PRAGMA {name} = 1", f"pragma main.{name}(1)", f'/**/PRAGMA"{name}"=1;'):
            yield Attack(sql, sql, HARMLESS if settable else REFUSED)


def _shadow_tables() -> Iterator[Attack]:
    """Shadow tables hold structures that C code trusts; only their virtual tables may change them."""
    for table in ("f_data", "f_idx", "f_content", "f_docsize", "f_config", "r_node", "r_rowid",
                  "r_parent"):  # fmt: skip
        for sql in (
            f"DELETE FROM {table}", f"DROP TABLE {table}", f"ALTER TABLE {table} ADD COLUMN x",
            f"ALTER TABLE {table} RENAME TO x", f"CREATE INDEX x ON {table} (rowid)",
            f"CREATE TRIGGER x AFTER INSERT ON {table} BEGIN SELECT 1; END",
        ):  # fmt: skip
            yield Attack(sql, sql)
    for sql in (
        "INSERT INTO f_data VALUES (10, x'ff')", "UPDATE f_data SET block = x'ffff'",
        'UPDATE "F_DATA" SET block = 1', "UPDATE main.[f_data] SET block = 1",
        "REPLACE INTO f_config VALUES ('version', 9)", "UPDATE r_node SET data = zeroblob(10)",
        "INSERT INTO r_node VALUES (1, x'00') ON CONFLICT DO UPDATE SET data = x'ff'",
        "WITH x AS (SELECT 1) DELETE FROM r_rowid", "UPDATE f_data SET block = 1 RETURNING block",
        "CREATE TRIGGER x AFTER INSERT ON u BEGIN DELETE FROM f_data; END; INSERT INTO u VALUES (1)",
        "CREATE VIEW w AS SELECT 1; CREATE TRIGGER x INSTEAD OF INSERT ON w BEGIN "
        "UPDATE r_node SET data = 1; END; INSERT INTO w VALUES (1)",
        "CREATE VIRTUAL TABLE g USING fts5(a); INSERT INTO g_data VALUES (1, 1)",
        "\ufeffCREATE VIRTUAL TABLE g USING fts5(a); INSERT INTO g_data VALUES (1, 1)",
        " \v\ufeffCREATE VIRTUAL TABLE g USING rtree(i, a, b); DELETE FROM g_node",
        "CREATE TABLE x (a); ALTER TABLE x RENAME TO f_stat; CREATE TABLE r_stat (a)",
        "INSERT INTO f (f) VALUES ('nothing')", "INSERT INTO f (f, rank) VALUES ('pgsz', 1)",
        "SELECT * FROM f WHERE f MATCH '\"'", f"SELECT * FROM f WHERE f MATCH '{'(' * 10_000}'",
        f"SELECT * FROM f WHERE f MATCH '{'NOT ' * 5_000}a'",
        "CREATE VIRTUAL TABLE x USING fts5(a, tokenize = 'nothing')",
        "CREATE VIRTUAL TABLE x USING fts5(a, prefix = '1 2 3 999999')",
        f"CREATE VIRTUAL TABLE x USING rtree(id, {', '.join(f'a{n}' for n in range(40))})",
        "INSERT INTO r VALUES (2, 5, 1)", "INSERT INTO r (id) SELECT rtreenode(2, zeroblob(9e9))",
    ):  # fmt: skip
        yield Attack(f"shadow: {sql[:60]}", sql)


def _bombs() -> Iterator[Attack]:
    """Statements that want time, memory or room without end."""
    deep_views = "; ".join(
        ["CREATE VIEW w0 AS SELECT 1 AS a"]
        + [f"CREATE VIEW w{n} AS SELECT x.a FROM w{n - 1} x, w{n - 1} y" for n in range(1, 12)]
    )
    for name, sql, expected in (
        ("endless recursion", f"{ENDLESS}SELECT count(*) FROM c", LATE),
        ("endless recursion, sorted", f"{ENDLESS}SELECT x FROM c ORDER BY x DESC", STOPPED),
        ("endless union", "WITH RECURSIVE c (x) AS (SELECT 1 UNION SELECT x + 1 FROM c) SELECT max(x) FROM c", STOPPED),
        ("endless rows", f"{ENDLESS}SELECT x FROM c", LARGE),
        ("endless insert", f"{ENDLESS}INSERT INTO u SELECT x FROM c", STOPPED),
        ("endless insert of blobs", f"{ENDLESS}INSERT INTO u SELECT randomblob(100000) FROM c", STOPPED),
        ("many joins", f"SELECT count(*) FROM {', '.join(f'(SELECT 1 UNION SELECT 2) a{n}' for n in range(60))}", STOPPED),
        ("too many joins", f"SELECT count(*) FROM {', '.join(f't a{n}' for n in range(100))}", REFUSED),
        ("views of views", f"{deep_views}; SELECT count(*) FROM w11", STOPPED | HARMLESS),
        ("self join", f"{MANY}, d AS MATERIALIZED (SELECT x FROM c) SELECT count(*) FROM d a, d b WHERE a.x + b.x = 7.5", LATE),
        ("window", f"{MANY}SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE CURRENT ROW) AS s FROM c ORDER BY s LIMIT 1", STOPPED),
        ("search in a blob", "SELECT instr(zeroblob(30000000), CAST(zeroblob(15000000) || 'x' AS BLOB))", LATE),
        ("LIKE", f"{ENDLESS}SELECT count(*) FROM c WHERE printf('%.*c', 100000 + x % 2, 'a') LIKE '{'%a' * 100}%b'", LATE),
        ("GLOB", f"{ENDLESS}SELECT count(*) FROM c WHERE printf('%.*c', 100000 + x % 2, 'a') GLOB '{'*a' * 100}*b'", LATE),
        ("long pattern", f"SELECT 'a' LIKE '{'%a' * 1000}'", REFUSED),
        ("long glob", f"SELECT 'a' GLOB '{'[a]' * 1000}'", REFUSED),
        ("randomblob", "SELECT randomblob(1000000000)", REFUSED),
        ("zeroblob", "SELECT zeroblob(1000000000)", REFUSED),
        ("zeroblob, inserted", "INSERT INTO u VALUES (zeroblob(2000000000))", REFUSED),
        ("printf", "SELECT printf('%1000000000d', 1)", STOPPED | HARMLESS),
        ("printf of text", "SELECT length(printf('%.*c', 1000000000, 'x'))", STOPPED | HARMLESS),
        ("hex", "SELECT hex(hex(zeroblob(10000000)))", REFUSED),
        ("quote", "SELECT quote(zeroblob(30000000))", REFUSED),
        ("replace", f"SELECT replace(hex(zeroblob(10000000)), '0', '{'x' * 1000}')", REFUSED),
        ("concatenation", "WITH RECURSIVE c (x) AS (SELECT 'x' UNION ALL SELECT x || x FROM c) SELECT length(x) FROM c", STOPPED),
        ("group_concat", f"{ENDLESS}SELECT length(group_concat(hex(zeroblob(1000000)))) FROM c", STOPPED),
        ("json_group_array", f"{ENDLESS}SELECT length(json_group_array(hex(zeroblob(100000)))) FROM c", STOPPED),
        ("json_group_object", f"{ENDLESS}SELECT length(json_group_object(x, x)) FROM c", STOPPED),
        ("deep JSON", f"SELECT json('{'[' * 100_000}')", REFUSED),
        ("deep JSON, closed", f"SELECT json('{'[' * 5_000}{']' * 5_000}')", REFUSED),
        ("json_each", f"SELECT count(*) FROM json_each(json_array({'1,' * 90}1)) a, json_each(json_array({'1,' * 90}1)) b, json_each(json_array({'1,' * 90}1)) c, json_each(json_array({'1,' * 90}1)) d", LATE),
        ("generate_series", "SELECT sum(value) FROM generate_series(1, 9223372036854775807)", STOPPED),
        ("sort in memory", f"{MILLION}SELECT randomblob(1000) AS a FROM c ORDER BY a LIMIT 1", STOPPED | HARMLESS),
        ("sort of large rows", f"{MANY}SELECT randomblob(10000) AS a, x FROM c ORDER BY a", STOPPED),
        ("distinct", f"{MILLION}SELECT count(DISTINCT randomblob(1000)) FROM c", STOPPED),
        ("automatic index", f"{MILLION}, d AS MATERIALIZED (SELECT randomblob(1000) AS a FROM c) SELECT count(*) FROM d x JOIN d y USING (a)", STOPPED),
        ("a large row", f"SELECT {', '.join(['zeroblob(30000000)'] * 30)}", STOPPED),
        ("a large result", f"{MANY}SELECT hex(zeroblob(5000)) FROM c LIMIT 9000", LARGE | LATE),
        ("many columns", f"SELECT {', '.join(['1'] * 3000)}", REFUSED),
        ("a wide table", f"CREATE TABLE x ({', '.join(f'a{n}' for n in range(3000))})", REFUSED),
        ("deep expression", f"SELECT {'(' * 1000}1{')' * 1000}", REFUSED),
        ("long expression", f"SELECT {'1+' * 10_000}1", REFUSED),
        ("deep negation", f"SELECT {'NOT ' * 10_000}1", REFUSED),
        ("deep CASE", f"SELECT {'CASE WHEN 1 THEN ' * 1000}1{' END' * 1000}", REFUSED),
        ("deep subqueries", f"SELECT {'(SELECT ' * 1000}1{')' * 1000}", REFUSED),
        ("long compound", " UNION ALL ".join(["SELECT 1"] * 1000), REFUSED),
        ("many variables", f"SELECT {', '.join(f'?{n}' for n in range(40000, 40010))}", REFUSED),
        ("many arguments", f"SELECT max({'1,' * 500}1)", REFUSED),
        ("many values", f"INSERT INTO u VALUES {'(1),' * 100_000}(1)", HARMLESS | STOPPED),
        ("many statements", "SELECT 1;" * 10_000, HARMLESS | STOPPED),
        ("many semicolons", ";" * 1_000_000, STOPPED),
        ("a long trigger", f"CREATE TRIGGER x AFTER INSERT ON u BEGIN {'SELECT 1;' * 50_000} END", HARMLESS | STOPPED),
        ("an open string", f"SELECT '{'x' * 1_000_000}", REFUSED),
        ("an open comment", f"/*{'x' * 1_000_000}", REFUSED),
        ("trigger that loops", "CREATE TRIGGER x AFTER INSERT ON u BEGIN INSERT INTO u VALUES (new.a + 1); END; INSERT INTO u VALUES (1)", HARMLESS),
        ("triggers that loop", "CREATE TRIGGER x AFTER INSERT ON u BEGIN INSERT INTO t (a) VALUES (1); END; CREATE TRIGGER y AFTER INSERT ON t BEGIN INSERT INTO u VALUES (1); END; INSERT INTO u VALUES (1)", HARMLESS),
        ("a trigger that works for ever", f"CREATE TRIGGER x AFTER INSERT ON u BEGIN DELETE FROM t WHERE id IN ({ENDLESS}SELECT x FROM c); END; INSERT INTO u VALUES (1)", STOPPED),
        ("cascade", "CREATE TABLE x (a PRIMARY KEY REFERENCES x ON DELETE CASCADE); INSERT INTO x VALUES (1); DELETE FROM x", HARMLESS),
        ("view of itself", "CREATE VIEW x AS SELECT * FROM y; CREATE VIEW y AS SELECT * FROM x; SELECT * FROM x", REFUSED),
        ("a table of large blobs", f"{MANY}INSERT INTO u SELECT zeroblob(30000000) FROM c", STOPPED),
        ("full-text bomb", f"{MILLION}INSERT INTO f SELECT hex(randomblob(1000)) FROM c", STOPPED),
        ("R-Tree bomb", f"{ENDLESS}INSERT INTO r SELECT x, x, x + 1 FROM c", STOPPED),
        ("an index on much", f"{MILLION}INSERT INTO u SELECT randomblob(100) FROM c; CREATE INDEX x ON u (a)", STOPPED | HARMLESS),
        ("NUL", "SELECT 1\0; SELECT 2", REFUSED),
        ("no SQL", "\ufffd\u2028\U0001f600", REFUSED),
        ("2 MiB of SQL", f"SELECT '{'x' * 2_000_000}'", LARGE),
    ):  # fmt: skip
        yield Attack(f"bomb: {name}", sql, expected)


def _writes_of_queries() -> Iterator[Attack]:
    for sql in (
        "INSERT INTO t (a) VALUES (1)", "UPDATE t SET a = 1", "DELETE FROM t", "DELETE FROM t WHERE 0",
        "REPLACE INTO t VALUES (1, 2)", "CREATE TABLE x (a)", "CREATE TABLE IF NOT EXISTS t (a)",
        "DROP TABLE t", "DROP TABLE IF EXISTS nothing_at_all; ", "ALTER TABLE t ADD COLUMN x",
        "CREATE INDEX x ON t (a)", "CREATE VIEW x AS SELECT 1", "REINDEX", "ANALYZE",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "INSERT INTO f VALUES ('x')",
        "INSERT INTO f (f) VALUES ('optimize')", "INSERT INTO r VALUES (9, 1, 2)", "DROP TABLE f",
        "CREATE VIRTUAL TABLE x USING fts5(a)", "WITH x AS (SELECT 1) INSERT INTO t (a) SELECT 1",
        "INSERT INTO t (a) VALUES (1) RETURNING id", "CREATE TEMP TABLE x (a)", "DELETE FROM f_data",
        "/* SELECT */ DELETE FROM t", "WITH x AS (SELECT 1) DELETE FROM r_node",
    ):  # fmt: skip
        # `DROP … IF EXISTS` of nothing changes nothing, and SQLite does not even ask.
        expected = READ_ONLY | HARMLESS if "nothing_at_all" in sql else READ_ONLY
        yield Attack(f"query: {sql}", sql, expected, "query")
    for sql in (
        "SELECT 1; DELETE FROM t",
        "",
        "BEGIN",
        "PRAGMA query_only = off",
        "PRAGMA journal_mode = wal",
    ):
        yield Attack(f"query: {sql}", sql, REFUSED, "query")
    for sql in ("SELECT * FROM f WHERE f MATCH 'words'", "SELECT * FROM r WHERE a < 9", "SELECT * FROM v",
                "SELECT * FROM json_each('[1]')", "SELECT * FROM pragma_table_info('t')",
                "EXPLAIN DELETE FROM t", "EXPLAIN QUERY PLAN SELECT * FROM t", "SELECT highlight(f, 0, '<', '>') FROM f"):  # fmt: skip
        allowed = READ_ONLY if "DELETE" in sql else HARMLESS
        yield Attack(f"query: {sql}", sql, allowed, "query")


def _allowed() -> Iterator[Attack]:
    """What must go on to work, for all the defences."""
    for sql in (
        "ALTER TABLE t RENAME TO x; ALTER TABLE x ADD COLUMN b; ALTER TABLE x RENAME COLUMN b TO c; ALTER TABLE x DROP COLUMN c; ALTER TABLE x RENAME TO t",
        "ALTER TABLE f RENAME TO g; ALTER TABLE g RENAME TO f", "INSERT INTO f (f) VALUES ('rebuild')",
        "INSERT INTO f (f) VALUES ('optimize'); INSERT INTO f (f) VALUES ('integrity-check')",
        "DELETE FROM f; INSERT INTO f VALUES ('some words'); UPDATE f SET a = 'other words'",
        "UPDATE r SET a = 0 WHERE id = 1; DELETE FROM r; INSERT INTO r VALUES (1, 2, 3)",
        "CREATE VIRTUAL TABLE g USING fts5(a, content = 't', content_rowid = 'id'); CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO g (rowid, a) VALUES (new.id, new.a); END; INSERT INTO t (a) VALUES ('z')",
        "CREATE VIRTUAL TABLE g USING fts5vocab(f, row); SELECT * FROM g",
        "CREATE TABLE words_data (a); INSERT INTO words_data VALUES (1); DROP TABLE words_data",
        "REINDEX; ANALYZE; ANALYZE t", "DROP TABLE f; DROP TABLE r", "SELECT * FROM sqlite_schema",
        "EXPLAIN DELETE FROM t", "CREATE TABLE x AS SELECT * FROM t", "CREATE TABLE y (a ANY) STRICT; DROP TABLE y" if sqlite3.sqlite_version_info > (3, 37) else "SELECT 1",
        "CREATE TABLE z (a INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO z VALUES (NULL); DELETE FROM sqlite_sequence",
    ):  # fmt: skip
        yield Attack(f"allowed: {sql[:60]}", sql, HARMLESS)


# What changes nothing, and takes no time.
VAIN_ATTACKS = [*_denied(), *_pragmas(), *_shadow_tables(), *_writes_of_queries()]
ATTACKS = [*_bombs(), *_allowed()]

"""`era-kernels storage` on D1 does the same through a server and in a directory without one."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Run

ODD_ROWS: list[dict[str, Any]] = [
    {"id": 1, "name": "Ada", "any": 1},
    {"id": 2, "name": "", "any": "1"},
    {"id": 3, "name": None, "any": 1.5},
    {"id": 4, "name": 'a "quoted", text\r\nin two lines\n', "any": "1.5"},
    {"id": 5, "name": " blanks ", "any": {"base64": "AP8="}},
    {"id": 6, "name": "x'00ff'", "any": "x'00ff'"},
    {"id": 7, "name": "☃\0\u2028", "any": 2**63 - 1},
    {"id": 8, "name": "NULL", "any": 0.1 + 0.2},
    {"id": 9, "name": '{"base64":"AP8="}', "any": {"base64": ""}},
    {"id": 10, "name": "1e5", "any": 1e300},
    {"id": 11, "name": "007", "any": -0.0},
    {"id": -(2**63), "name": "\ufeffmark", "any": "true"},
]


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().split("\n") if line]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["id"])


def test_sql(run: Run) -> None:
    """SQL reads; it changes something with --write alone; rows are a table, CSV or JSON lines."""
    make = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, score)"
    refused = run("sql", "space", make, code=1)
    assert b"--write" in refused.stderr
    assert run("sql", "space", make, "--write").stdout == b""
    insert = "INSERT INTO users (name, score) VALUES (?, ?)"
    assert b"changes: 1" in run("sql", "space", insert, "Ada", "1.5", "--write").stderr
    run("sql", "space", insert, "--write", "--", "007", "-3")
    run("sql", "space", insert, "--write", "--params", '["\\u001b[31m☃\\n", {"base64": "AP8="}]')
    named = "INSERT INTO users (name) VALUES (:name) RETURNING id"
    assert run("sql", "space", named, "--params", '{"name": "b,c"}', "--write").stdout == (
        b"id\n--\n 4\n"
    )
    select = "SELECT * FROM users ORDER BY id"
    assert run("sql", "space", select).stdout.decode() == (
        "id  name         score\n"
        "--  -----------  -------\n"
        " 1  Ada              1.5\n"
        " 2  007               -3\n"
        " 3  \\x1b[31m☃\\n  x'00ff'\n"
        " 4  b,c          NULL\n"
    )
    shown = run("sql", "space", select, "--csv").stdout.decode()
    assert shown.startswith("id,name,score\n1,Ada,1.5\n2,007,-3\n")
    found = lines(run("sql", "space", select, "--json-lines").stdout)
    assert found[0] == {"id": 1, "name": "Ada", "score": 1.5}
    assert found[2]["score"] == {"base64": "AP8="}
    where = "SELECT name FROM users WHERE length(name) > ? AND id < ?"
    assert lines(run("sql", "space", where, "2", "3", "--json-lines").stdout) == [
        {"name": "Ada"}, {"name": "007"}
    ]  # fmt: skip
    several = "DELETE FROM users; INSERT INTO users (name) VALUES ('new')"
    run("sql", "space", "-", "--write", data=several.encode())
    assert b"rows: 1" in run("sql", "space", select).stderr
    empty = run("sql", "space", "SELECT * FROM users WHERE false")
    assert (empty.stdout, b"rows: 0" in empty.stderr) == (b"", True)


def test_list(run: Run) -> None:
    """Tables and views are listed with their columns, without those that keep data of others."""
    run("sql", "space", "CREATE TABLE b (x, y); CREATE VIEW a AS SELECT x FROM b", "--write")
    run("sql", "space", "CREATE VIRTUAL TABLE words USING fts5 (text)", "--write")
    assert lines(run("list", "d1", "space").stdout) == [
        {"table": "a", "type": "view", "columns": ["x"]},
        {"table": "b", "type": "table", "columns": ["x", "y"]},
        {"table": "words", "type": "table", "columns": ["text"]},
    ]
    assert len(lines(run("list", "d1", "space", "--prefix", "b").stdout)) == 1
    assert run("list", "d1", "nothing").stdout == b""


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_export_and_import(run: Run, tmp_path: Path, suffix: str) -> None:
    """A table comes back with every value and its type, also one that no type holds."""
    make = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, any)"
    run("sql", "space", make, "--write")
    run("import", "d1", "space", "-", "--table", "T", data=as_lines(ODD_ROWS))
    target = tmp_path / f"table.{suffix}"
    assert b"exported: 12" in run("export", "d1", "space", target, "--table", "t").stderr
    run("sql", "copy", make, "--write")
    for table in ("t", "new"):
        assert b"imported: 12" in run("import", "d1", "copy", target, "--table", table).stderr
        found = lines(run("export", "d1", "copy", "-", "--table", table).stdout)
        assert by_id(found) == by_id(ODD_ROWS)
        types = "SELECT typeof(name) n, typeof(any) a FROM t ORDER BY id"
        both = [
            run("sql", where, types.replace(" t ", f" {name} "), "--csv").stdout
            for where, name in (("space", "t"), ("copy", table))
        ]
        assert both[0] == both[1]
    query = "SELECT name AS who, count(*) AS n FROM t WHERE id = 1"
    run("export", "d1", "copy", tmp_path / f"query.{suffix}", "--sql", query)
    text = (tmp_path / f"query.{suffix}").read_text()
    assert text == ("who,n\nAda,1\n" if suffix == "csv" else '{"who":"Ada","n":1}\n')


@pytest.mark.parametrize(
    "make",
    [
        "CREATE TABLE t (id INTEGER, name TEXT)",
        "CREATE TABLE t (id INT, name TEXT COLLATE NOCASE, PRIMARY KEY (name, id)) WITHOUT ROWID",
        "CREATE TABLE t (id INT, name, rowid, upper AS (upper(name)), key_0)",
        "CREATE VIRTUAL TABLE t USING fts5 (id, name)",
    ],
)
def test_many_rows(run: Run, make: str) -> None:
    """More rows than one request may have go in whole or not at all, and come out once each."""
    count = 2_345
    run("sql", "space", make, "--write")
    rows = [{"id": number, "name": f"{'aA'[number % 2]}{number // 2}"} for number in range(count)]
    run("import", "d1", "space", "-", "--table", "t", data=as_lines(rows))
    exported = run("export", "d1", "space", "-", "--table", "t").stdout
    found = [{"id": int(row["id"]), "name": row["name"]} for row in lines(exported)]
    assert by_id(found) == rows
    if "VIRTUAL" not in make:
        run("sql", "space", "CREATE TABLE u AS SELECT * FROM t WHERE false", "--write")
        run("sql", "space", "CREATE UNIQUE INDEX one ON u (id)", "--write")
        wrong = [*rows, rows[7]]
        refused = run("import", "d1", "space", "-", "--table", "u", data=as_lines(wrong), code=1)
        assert b"UNIQUE" in refused.stderr
        assert b"exported: 0" in run("export", "d1", "space", "-", "--table", "u").stderr
    assert {one["table"] for one in lines(run("list", "d1", "space").stdout)} <= {"t", "u"}


def test_foreign_csv(run: Run) -> None:
    """CSV of other programs is read: all in quotes, with CRLF, a mark, blank and odd lines."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "name"], [1, 'say "hi"'], [2, "two\nlines"]])
    data = b"\xef\xbb\xbf" + text.getvalue().encode() + b"\r\n3,bare\r\n4,"
    run("sql", "space", "CREATE TABLE t (id INTEGER, name TEXT)", "--write")
    run("import", "d1", "space", "-", "--csv", "--table", "t", data=data)
    assert lines(run("export", "d1", "space", "-", "--table", "t").stdout) == [
        {"id": 1, "name": 'say "hi"'},
        {"id": 2, "name": "two\nlines"},
        {"id": 3, "name": "bare"},
        {"id": 4, "name": None},
    ]


def test_mistakes(run: Run, tmp_path: Path) -> None:
    """What cannot be done is told in a sentence, and changes nothing."""
    run("sql", "space", "CREATE TABLE t (a, b UNIQUE)", "--write")
    into = ("import", "d1", "space", "-", "--table", "t")
    for arguments, data, code, words in [
        (("sql", "space", "SELEC 1"), b"", 1, b"syntax error"),
        (("sql", "space", "SELECT * FROM none"), b"", 1, b"no such table"),
        (("sql", "space", "SELECT ?"), b"", 1, b"bindings"),
        (("sql", "space", "SELECT 1; SELECT 2"), b"", 1, b"one statement"),
        (("sql", "space", "ATTACH 'x' AS y", "--write"), b"", 1, b"refused"),
        (("sql", "space", "SELECT 1", "--params", "{"), b"", 2, b"--params"),
        (("sql", "space", "SELECT 1", "--params", "1"), b"", 2, b"--params"),
        (("sql", "space", "SELECT ?", "1", "--params", "[1]"), b"", 2, b"not both"),
        (("sql", "space", "SELECT ?", "--params", "[[1]]"), b"", 2, b"--params"),
        (("sql", "space", "SELECT 1", "--csv", "--json-lines"), b"", 2, b"Choose"),
        (("sql", "_bad", "SELECT 1"), b"", 1, b"A namespace must be"),
        (("export", "d1", "space", "-"), b"", 2, b"--table"),
        (("export", "d1", "space", "-", "--table", "t", "--sql", "x"), b"", 2, b"--table"),
        (("export", "d1", "space", "-", "--table", "none"), b"", 1, b"no table none"),
        (("import", "d1", "space", "-"), b"", 2, b"--table"),
        (into, b'{"a": 1}\n{"c": 1}', 1, b"no column 'c'"),
        (into, b'{"a": 1}\n{"a": [1]}', 1, b"Line 2"),
        (into, b'{"a": 1}\n{"a": 9223372036854775808}', 1, b"Line 2"),
        (into, b'{"a": 1}\n{"a": 1e999}', 1, b"Line 2"),
        (into, b'{"a": 1}\n[1]', 1, b"Line 2"),
        (into, b"{}", 1, b"No row has a column"),
        (into, b'{"b": 1}\n{"b": 1}', 1, b"UNIQUE"),
        ((*into, "--csv"), b"a,b\n1,2\n3", 1, b"Line 3 has 1 cells"),
        ((*into, "--csv"), b"a,a\n1,2", 1, b"name of its own"),
        ((*into, "--csv"), b'a,b\n1,"2', 1, b"Line 2 has a quote"),
        ((*into, "--csv"), b'a,b\n1,x"2"', 1, b"Line 2 has a quote"),
        ((*into, "--csv"), b"", 1, b"empty"),
        ((*into, "--csv"), b"\xff", 1, b"UTF-8"),
    ]:
        assert words in run(*arguments, data=data, code=code).stderr, arguments
    assert b"exported: 0" in run("export", "d1", "space", "-", "--table", "t").stderr
    assert [one["table"] for one in lines(run("list", "d1", "space").stdout)] == ["t"]

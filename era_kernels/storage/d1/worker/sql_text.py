"""Splits SQL into its statements, by the rules of SQLite's own `sqlite3_complete`.

SQLite compiles one statement at a time, and its Python module does not tell where the next begins.
Nothing is rewritten: each statement is a part of the text as it was given.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# One token. A string with a doubled quote is read as two strings, which makes no difference here.
# Whatever is not closed goes to the end. U+FEFF is blank for SQLite, too.
_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t\n\f\r\ufeff]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<semicolon> ; )
    | (?P<word> [A-Za-z_][A-Za-z_0-9$]* )
    | (?: '[^']*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[^\]]*(?:\]|\Z)
        | [^ \t\n\f\r\ufeff;A-Za-z_'"`\[/-]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

# The states of `sqlite3_complete`: before a statement, inside one, and inside that of a trigger,
# whose own semicolons end nothing until `; END ;` is read.
_START, _NORMAL, _EXPLAIN, _CREATE, _TRIGGER, _SEMICOLON, _END = range(7)
_NEXT: dict[int, dict[str, int]] = {  # what is not named leads to the state under "other"
    _START: {";": _START, "EXPLAIN": _EXPLAIN, "CREATE": _CREATE, "other": _NORMAL},
    _NORMAL: {";": _START, "other": _NORMAL},
    _EXPLAIN: {";": _START, "CREATE": _CREATE, "QUERY": _EXPLAIN, "PLAN": _EXPLAIN,
               "other": _NORMAL},
    _CREATE: {";": _START, "TEMP": _CREATE, "TEMPORARY": _CREATE, "TRIGGER": _TRIGGER,
              "other": _NORMAL},
    _TRIGGER: {";": _SEMICOLON, "other": _TRIGGER},
    _SEMICOLON: {";": _SEMICOLON, "END": _END, "other": _TRIGGER},
    _END: {";": _START, "other": _TRIGGER},
}  # fmt: skip


class SqlPart(NamedTuple):
    """One statement of a text, with its first word in capitals; `""` where it has none."""

    sql: str
    keyword: str


def split_statements(sql: str) -> list[SqlPart]:
    """Returns the statements of a text, without those that hold nothing.

    >>> [part.sql for part in split_statements("SELECT ';'; -- two;\\n;DELETE FROM t")]
    ["SELECT ';'", 'DELETE FROM t']
    """
    parts: list[SqlPart] = []
    state, start, keyword, is_empty, end = _START, 0, "", True, 0
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind == "blank":
            continue
        if is_empty and kind != "semicolon":
            start = match.start()
        token = match.group().upper() if kind == "word" else ";" if kind == "semicolon" else "other"
        if is_empty and kind == "word":
            keyword = token
        following = _NEXT[state]
        state = following.get(token, following["other"])
        if kind != "semicolon" or state != _START:
            is_empty, end = False, match.end()
        elif not is_empty:
            parts.append(SqlPart(sql[start:end], keyword))
            is_empty, keyword = True, ""
    if not is_empty:
        parts.append(SqlPart(sql[start:end], keyword))
    return parts

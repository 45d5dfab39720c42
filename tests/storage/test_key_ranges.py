"""Keys by prefix and cursor, in the order of UTF-8 bytes."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.errors import InvalidRequest
from era_kernels.storage.key_ranges import cursor_from_key, key_from_cursor, key_range, prefix_end

# Text of which much begins alike, with the characters at which ranges end.
ODD_CHARACTERS = "ab/\0\x7f\x80é\ud7ff\ue000\uffff\U00010000😀\U0010ffff"
TEXT = st.text(st.sampled_from(ODD_CHARACTERS), max_size=6) | st.text(max_size=6)


@given(prefix=TEXT, text=TEXT)
def test_prefix_end(prefix: str, text: str) -> None:
    """A text begins with the prefix exactly when it is in the range, compared as bytes."""
    end = prefix_end(prefix)
    for one in (text, prefix + text, prefix):
        encoded = one.encode()
        is_in_range = encoded >= prefix.encode() and (end is None or encoded < end.encode())
        assert is_in_range == one.startswith(prefix)


@given(st.text(min_size=1))
def test_cursor(key: str) -> None:
    """A cursor is a token for URLs, and gives its key back."""
    cursor = cursor_from_key(key)
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum() or set(cursor) <= {"-", "_"}
    assert key_from_cursor(cursor) == key


@pytest.mark.parametrize("cursor", ["a", "!", "é", "Y29uZmln=", " Y29uZmln", "_w", "====", "YQ\n"])
def test_wrong_cursor(cursor: str) -> None:
    """What no answer gave is refused: no base64, padded, or no UTF-8 inside."""
    with pytest.raises(InvalidRequest, match="cursor"):
        key_from_cursor(cursor)


# ---------------------------------------------------------------- ranges of a list

# Few characters, so that prefixes are met, and those around which bytes and characters differ.
CHARACTERS = "\0a~\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
KEYS = st.text(CHARACTERS, min_size=1, max_size=4)


def select(keys: set[str], prefix: str, after: str | None) -> list[str]:
    """Returns what SQLite finds in the range."""
    first, end = key_range(prefix, after)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE keys (key TEXT PRIMARY KEY)")
        connection.executemany("INSERT INTO keys VALUES (?)", [(key,) for key in keys])
        rows = connection.execute("SELECT key FROM keys WHERE key >= ? ORDER BY key", (first,))
        return [key for (key,) in rows if end is None or key.encode() < end.encode()]


@given(st.sets(KEYS), st.text(CHARACTERS, max_size=3), st.none() | KEYS)
def test_range(keys: set[str], prefix: str, after: str | None) -> None:
    """The range holds the keys with the prefix that come after a key, in the order of bytes."""
    wanted = [
        key
        for key in sorted(keys, key=str.encode)
        if key.startswith(prefix) and (after is None or key.encode() > after.encode())
    ]
    assert select(keys, prefix, after) == wanted


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", None),
        ("a", "b"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff\U0010ffff", None),
        ("\ud7ff", "\ue000"),
    ],
)
def test_end(prefix: str, end: str | None) -> None:
    """The end is the next text of the same length or shorter; behind the last one is none."""
    assert key_range(prefix) == (prefix, end)

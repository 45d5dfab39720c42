"""Keys by prefix and cursor, in the order of UTF-8 bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.errors import InvalidRequest
from era_kernels.storage.key_ranges import cursor_from_key, key_from_cursor, prefix_end

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

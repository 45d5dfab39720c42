"""Selects keys by prefix and cursor, in the order of their UTF-8 bytes.

That is the order of code points, in which Python compares strings, and SQLite texts.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from era_kernels.errors import InvalidRequest

_LAST = "\U0010ffff"
_BEFORE_SURROGATES, _AFTER_SURROGATES = "\ud7ff", "\ue000"


def prefix_end(prefix: str) -> str | None:
    """Returns the least text above all texts that begin with `prefix`; None: there is none.

    >>> prefix_end("user:"), prefix_end("a\\U0010ffff"), prefix_end("\\U0010ffff")
    ('user;', 'b', None)
    """
    stem = prefix.rstrip(_LAST)
    if not stem:
        return None
    last = stem[-1]
    following = _AFTER_SURROGATES if last == _BEFORE_SURROGATES else chr(ord(last) + 1)
    return stem[:-1] + following


def cursor_from_key(key: str) -> str:
    """Returns the token of the last key of a page, with which the next page is asked for."""
    return urlsafe_b64encode(key.encode()).rstrip(b"=").decode("ascii")


def key_from_cursor(cursor: str) -> str:
    """Returns the key of a token. Raises InvalidRequest for a text that is no token."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = urlsafe_b64decode(padded).decode("utf-8")
    except (binascii.Error, UnicodeError):
        key = ""
    if not key or cursor_from_key(key) != cursor:
        raise InvalidRequest("`cursor` must be the `cursor` of an earlier answer, unchanged.")
    return key

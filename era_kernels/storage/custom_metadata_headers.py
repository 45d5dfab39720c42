"""Writes the custom metadata of objects as headers, `X-Era-Meta-<name>`, reads and bounds it.

Names of headers have no case, so they are read as lower case. What a header cannot hold as it is,
of the UTF-8 of names and values, is percent-encoded, and decoded again on the way in.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, unquote_to_bytes

from era_kernels.errors import InvalidRequest, TooLarge

PREFIX = "X-Era-Meta-"
MAX_METADATA = 8 * 1024  # bytes of all names and values together
MAX_METADATA_NAMES = 64  # clients read no more than 100 headers

# Characters that stand as they are: in names those of a token (RFC 9110), in values what is seen.
_IN_NAMES = frozenset(string.ascii_lowercase + string.digits + "!#$&'*+-.^_`|~")
_IN_VALUES = (string.punctuation + " ").replace("%", "")


def from_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the custom metadata in headers, which are Latin-1.

    Raises InvalidRequest, TooLarge.
    """
    metadata = {}
    for name, value in headers:
        if name.lower().startswith(PREFIX.lower()):
            metadata[_decode(name[len(PREFIX) :].lower())] = _decode(value)
    check_size(metadata)
    return metadata


def to_headers(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the name and the value of each header.

    >>> list(to_headers({"author": "Zoë", "Type": "a"}))
    [('X-Era-Meta-author', 'Zo%C3%AB'), ('X-Era-Meta-%54ype', 'a')]
    """
    for name, value in metadata.items():
        text = quote(value, safe=_IN_VALUES)
        if text != text.strip():  # blanks at the ends are no part of a header's value
            text = quote(value, safe=_IN_VALUES.replace(" ", ""))
        yield PREFIX + _encode_name(name), text


def check_size(metadata: Mapping[str, str]) -> None:
    """Raises TooLarge for more custom metadata than an object may have."""
    is_too_much = len(metadata) > MAX_METADATA_NAMES
    if not is_too_much:
        sizes = (len(name.encode()) + len(value.encode()) for name, value in metadata.items())
        is_too_much = sum(sizes) > MAX_METADATA
    if is_too_much:
        raise TooLarge(
            f"The custom metadata of an object may have {MAX_METADATA_NAMES} names, and "
            f"{MAX_METADATA} bytes of names and values together."
        )


def _encode_name(name: str) -> str:
    characters = map(chr, name.encode())  # each byte as a character
    return "".join(one if one in _IN_NAMES else f"%{ord(one):02X}" for one in characters)


def _decode(text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin1")).decode()
    except UnicodeError:
        raise InvalidRequest(
            f"A header {PREFIX}<name> holds text that is no UTF-8.",
            hint="Percent-encode what is not ASCII.",
        ) from None

"""Moves the custom metadata of objects in headers, `X-Era-Meta-<name>`, and bounds it.

Names of headers have no case, so they become lower case. What a header cannot hold as it is, of the
UTF-8 of names and values, is percent-encoded, and decoded again on the way in.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote_to_bytes

from tornado.httputil import HTTPHeaders

from era_kernels.errors import InvalidRequest, TooLarge
from era_kernels.storage.r2 import MAX_METADATA, MAX_METADATA_NAMES

PREFIX = "X-Era-Meta-"

# Characters that stand as they are: in names those of a token (RFC 9110), in values what is seen.
_IN_NAMES = "!#$&'*+-.^_`|~"
_IN_VALUES = (string.punctuation + " ").replace("%", "")


def from_headers(headers: HTTPHeaders) -> dict[str, str]:
    """Returns the custom metadata in the headers of a request. Raises InvalidRequest, TooLarge."""
    metadata = {}
    for name, value in headers.get_all():
        if name.lower().startswith(PREFIX.lower()):
            metadata[_decode(name[len(PREFIX) :].lower())] = _decode(value)
    check_size(metadata)
    return metadata


def to_headers(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the name and the value of each header."""
    for name, value in metadata.items():
        text = quote(value, safe=_IN_VALUES)
        if text != text.strip():  # blanks at the ends are no part of a header's value
            text = quote(value, safe=_IN_VALUES.replace(" ", ""))
        yield PREFIX + quote(name, safe=_IN_NAMES), text


def check_size(metadata: Mapping[str, str]) -> None:
    """Raises TooLarge for more custom metadata than an object may have."""
    size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
    if size > MAX_METADATA or len(metadata) > MAX_METADATA_NAMES:
        raise TooLarge(
            f"The custom metadata of an object may have {MAX_METADATA_NAMES} names, and "
            f"{MAX_METADATA} bytes of names and values together."
        )


def _decode(text: str) -> str:
    try:  # Tornado reads the bytes of a header as Latin-1
        return unquote_to_bytes(text.encode("latin1")).decode()
    except UnicodeError:
        raise InvalidRequest(
            f"A header {PREFIX}<name> holds text that is no UTF-8.",
            hint="Percent-encode what is not ASCII.",
        ) from None

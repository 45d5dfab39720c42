"""Packs and unpacks messages, bound to functions that no program replaces.

jupyter_client's own packer looks `json.dumps` up for each message. What is read and written here
does not go through any name of the module `json`, nor through methods that its classes may be given
later.
"""

from __future__ import annotations

from collections.abc import Callable
from json.decoder import JSONDecoder
from json.encoder import c_make_encoder, encode_basestring
from typing import Any

from jupyter_client.jsonutil import json_clean, json_default

_scan: Callable[[str, int], tuple[Any, int]] = JSONDecoder().scan_once
_BLANKS = " \t\n\r"


def pack(value: Any) -> bytes:
    """Returns JSON in UTF-8; what JSON cannot hold is written as its nearest form.

    Lone surrogates are escaped as JSON has it. Raises TypeError or ValueError for what has no form.
    """
    try:
        text = _encode(value)
    except (TypeError, ValueError):  # not a number, a key that is no text, an odd class
        text = _encode(json_clean(value))
    return text.encode(errors="backslashreplace")


def unpack(data: bytes | str) -> Any:
    """Returns the value of a JSON text. Raises ValueError."""
    text = data if isinstance(data, str) else bytes(data).decode(errors="replace")
    try:
        value, end = _scan(text, len(text) - len(text.lstrip(_BLANKS)))
    except StopIteration:
        raise ValueError("no JSON") from None
    if text[end:].strip(_BLANKS):
        raise ValueError("more than one JSON value")
    return value


def _encode(value: Any) -> str:
    """Returns JSON text. The encoder is made anew: one that failed remembers what it was in."""
    encode = c_make_encoder(
        {}, json_default, encode_basestring, None, ":", ",", False, False, False
    )
    return "".join(encode(value, 0))

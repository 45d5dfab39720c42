"""Formats times and durations for callers, and defines the type of JSON objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

JsonObject = dict[str, Any]

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4  # bytes
MIN_TOKEN_LENGTH = 16  # characters of a token of the API


def now() -> datetime:
    """Returns the present time; every time in the domain is an aware UTC datetime."""
    return datetime.now(UTC)


def to_iso(time: datetime | None) -> str:
    """Returns a time as UTC ISO 8601 with milliseconds and Z; None becomes the empty string.

    >>> to_iso(datetime(2025, 1, 15, 10, 30, tzinfo=UTC))
    '2025-01-15T10:30:00.000Z'
    """
    if time is None:
        return ""
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def end_sentence(text: str) -> str:
    """Returns a text with a full stop behind it; one that ends a sentence already is not changed.

    >>> end_sentence("no such table: t"), end_sentence("There are two statements.")
    ('no such table: t.', 'There are two statements.')
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."


def format_size(size: int) -> str:
    """Formats a number of bytes for people, in powers of 1024.

    >>> format_size(1 << 30), format_size(10 << 20), format_size(1000)
    ('1 GiB', '10 MiB', '1000 bytes')
    """
    units = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
    for unit, name in units:
        if size >= unit and size % unit == 0 and size < 10_000 * unit:
            return f"{size // unit} {name}"
    for unit, name in units[:2]:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def format_duration(seconds: float) -> str:
    """Returns a duration for people: `15.3ms`, `5.12s`, `1m2s`, `2h0m5s`.

    >>> format_duration(0.0153), format_duration(5.123), format_duration(62.4)
    ('15.3ms', '5.12s', '1m2s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 60:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"

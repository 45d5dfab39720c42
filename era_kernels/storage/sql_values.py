"""Converts domain values to SQLite's: times to text that sorts, JSON to text."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, overload

# ASCII only, so that any Python string survives. To look for cycles takes half of the time.
_encoder = json.JSONEncoder(check_circular=False, separators=(",", ":"))


@overload
def time_to_text(time: datetime) -> str: ...
@overload
def time_to_text(time: None) -> None: ...
def time_to_text(time: datetime | None) -> str | None:
    """Converts a time to UTC with microseconds, so that text order is time order.

    >>> time_to_text(datetime(2025, 1, 15, 10, 30, tzinfo=UTC))
    '2025-01-15T10:30:00.000000+00:00'
    """
    return None if time is None else time.astimezone(UTC).isoformat(timespec="microseconds")


def time_from_text(text: str | None) -> datetime | None:
    """Parses a text of `time_to_text`."""
    return None if text is None else datetime.fromisoformat(text)


def json_to_text(value: Any) -> str:
    """Encodes a value as compact JSON; integers of any size stay exact."""
    return _encoder.encode(value)

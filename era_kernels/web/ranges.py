"""The Range header, RFC 9110 section 14: one range of bytes, or everything."""

from __future__ import annotations

import re

from era_kernels.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def requested(header: str | None, total: int) -> tuple[int, int] | None:
    """The half-open range of `total` bytes that is asked for, or None for the whole.

    A header that is malformed, of another unit or of several ranges is ignored, as the RFC allows.
    Raises RangeNotSatisfiable when the range begins behind the end.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or found[0].endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, total - int(last)), total
    else:
        start, stop = int(first), total if not last else min(total, int(last) + 1)
        if last and int(last) < start:
            return None
    if start >= stop:
        raise RangeNotSatisfiable(f"The range begins behind the end: there are {total} bytes.")
    return start, stop

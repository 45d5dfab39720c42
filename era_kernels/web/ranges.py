"""Serves the Range header, RFC 9110 section 14, with a single range of bytes."""

from __future__ import annotations

import re

from era_kernels.errors import RangeNotSatisfiable
from era_kernels.web.base_handler import BaseHandler

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def parse_range(header: str | None, total: int) -> tuple[int, int] | None:
    """Returns the requested half-open range of `total` bytes, or None for the whole.

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


def prepare_range_response(
    handler: BaseHandler, total: int, *, is_applicable: bool = True
) -> tuple[int, int]:
    """Sets status and headers of an answer that serves ranges; returns the range to send.

    `is_applicable` is False when the request puts a condition on the range that is not met.
    Raises RangeNotSatisfiable.
    """
    try:
        # HEAD describes the whole resource.
        is_applicable = is_applicable and handler.request.method == "GET"
        byte_range = (
            parse_range(handler.request.headers.get("Range"), total) if is_applicable else None
        )
    except RangeNotSatisfiable:
        handler.set_sticky_header("Content-Range", f"bytes */{total}")
        raise
    start, stop = byte_range or (0, total)
    handler.set_header("Accept-Ranges", "bytes")
    handler.set_header("Content-Length", stop - start)
    if byte_range is not None:
        handler.set_status(206)
        handler.set_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
    return start, stop

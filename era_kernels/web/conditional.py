"""Evaluates the conditions of requests, RFC 9110 section 13: ETags and modification times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from era_kernels.errors import PreconditionFailed

_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


@dataclass(frozen=True, slots=True)
class Validators:
    """Identifies one state of a resource by a strong ETag and a time in whole seconds."""

    etag: str
    modified_at: datetime

    @property
    def last_modified(self) -> str:
        """The time of modification as HTTP writes times."""
        return format_datetime(self.modified_at.astimezone(UTC), usegmt=True)


def is_not_modified(headers: Mapping[str, str], current: Validators | None) -> bool:
    """Returns whether the caller of a read has the present state already (status 304).

    `current` is None where there is no resource. Raises PreconditionFailed as `check_preconditions`
    does.
    """
    _check_match(headers, current)
    if current is None:
        return False
    if "If-None-Match" in headers:
        return _matches_any(headers["If-None-Match"], current.etag, allow_weak=True)
    since = _parse_date(headers.get("If-Modified-Since"))
    return since is not None and current.modified_at <= since


def check_preconditions(headers: Mapping[str, str], current: Validators | None) -> None:
    """Raises PreconditionFailed for a write that is meant for another state of the resource."""
    _check_match(headers, current)
    unwanted = headers.get("If-None-Match")
    if (
        unwanted is not None
        and current is not None
        and _matches_any(unwanted, current.etag, allow_weak=True)
    ):
        raise PreconditionFailed("It exists already, and the request is meant for a new one.")


def range_applies(headers: Mapping[str, str], current: Validators) -> bool:
    """Returns whether a Range is meant for this state; if not, the whole resource is sent."""
    condition = headers.get("If-Range")
    if condition is None:
        return True
    if _ETAG.fullmatch(condition.strip()):
        return condition.strip() == current.etag
    return _parse_date(condition) == current.modified_at


def _check_match(headers: Mapping[str, str], current: Validators | None) -> None:
    wanted = headers.get("If-Match")
    if wanted is not None:
        met = current is not None and _matches_any(wanted, current.etag, allow_weak=False)
    else:
        since = _parse_date(headers.get("If-Unmodified-Since"))
        met = since is None or current is None or current.modified_at <= since
    if not met:
        raise PreconditionFailed("It is not in the state that the request is meant for.")


def _matches_any(header: str, etag: str, *, allow_weak: bool) -> bool:
    """Returns whether the header lists this ETag or `*`; weak ETags count only if `allow_weak`."""
    if header.strip() == "*":
        return True
    return any(tag == etag and (allow_weak or not weak) for weak, tag in _ETAG.findall(header))


def _parse_date(text: str | None) -> datetime | None:
    """Returns the time of an HTTP date, None for a text that is none."""
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

"""Conditional requests, RFC 9110 section 13: is an answer still wanted, a change still meant?"""

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
    """What identifies one state of a resource: a strong ETag, and its time in whole seconds."""

    etag: str
    modified_at: datetime

    @property
    def last_modified(self) -> str:
        """The time as HTTP writes it."""
        return format_datetime(self.modified_at.astimezone(UTC), usegmt=True)


def unchanged(headers: Mapping[str, str], now: Validators | None) -> bool:
    """A read whose caller has the present state already: 304.

    `now` is None where there is nothing. Raises PreconditionFailed as `check_change` does.
    """
    _check_match(headers, now)
    if now is None:
        return False
    if "If-None-Match" in headers:
        return _listed(headers["If-None-Match"], now.etag, weak=True)
    since = _time(headers.get("If-Modified-Since"))
    return since is not None and now.modified_at <= since


def check_change(headers: Mapping[str, str], now: Validators | None) -> None:
    """A write that is meant for another state is not done. Raises PreconditionFailed."""
    _check_match(headers, now)
    unwanted = headers.get("If-None-Match")
    if unwanted is not None and now is not None and _listed(unwanted, now.etag, weak=True):
        raise PreconditionFailed("There is such a file already.")


def range_applies(headers: Mapping[str, str], now: Validators) -> bool:
    """Whether a Range is meant for this state; if not, the whole is wanted."""
    condition = headers.get("If-Range")
    if condition is None:
        return True
    if _ETAG.fullmatch(condition.strip()):
        return condition.strip() == now.etag
    return _time(condition) == now.modified_at


def _check_match(headers: Mapping[str, str], now: Validators | None) -> None:
    wanted = headers.get("If-Match")
    if wanted is not None:
        met = now is not None and _listed(wanted, now.etag, weak=False)
    else:
        since = _time(headers.get("If-Unmodified-Since"))
        met = since is None or now is None or now.modified_at <= since
    if not met:
        raise PreconditionFailed("The file is not in the state that the request is meant for.")


def _listed(header: str, etag: str, *, weak: bool) -> bool:
    """Is the ETag one of those, or are all meant? A weak one is equal only where that is enough."""
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not mark) for mark, tag in _ETAG.findall(header))


def _time(text: str | None) -> datetime | None:
    """An HTTP date; None for what is none."""
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

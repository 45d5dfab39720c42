"""Raises and tells how many files this process may have open; see getrlimit(2)."""

from __future__ import annotations

from contextlib import suppress
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit


def raise_open_files() -> None:
    """Raises the soft limit to the hard one: the soft one is low for programs that use select(2).

    Sessions have a limit of their own.
    """
    _, hard = getrlimit(RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # Linux may refuse what was allowed once
        setrlimit(RLIMIT_NOFILE, (hard, hard))


def max_open_files() -> int | None:
    """Returns how many files a server may have open, None where there is no bound."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    return None if hard == RLIM_INFINITY else hard

"""Keeps the API tokens, compares them in constant time and has their file read again on change."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.web.token_file import TokenFile, check_length, hash_tokens

CHECK_INTERVAL = 0.5  # seconds between two looks at the file
CHECK_PATIENCE = 0.6  # seconds that requests wait for a look: longer than a file must be quiet


class ApiTokens:
    """Holds the tokens of the settings and of a file, some of which have names."""

    def __init__(self, tokens: Sequence[str] = (), file: Path | None = None) -> None:
        """Reads the file; blocking, once at start.

        Raises StartError when the file cannot be read or a token has fewer than 16 characters.
        """
        given = [token.strip() for token in tokens if token.strip()]
        for token in given:
            _check_setting(token)
        self._setting_digests = hash_tokens(given)
        self._file = None if file is None else TokenFile(file, may_be_empty=bool(given))
        self._check: asyncio.Future[None] | None = None
        self._checked_at = time.monotonic()

    def __bool__(self) -> bool:
        """Returns whether the server needs tokens, as also with a token file that is empty."""
        return self._file is not None or bool(self._setting_digests)

    def find_name(self, candidates: Iterable[str]) -> str | None:
        """Returns the name of the candidate that is a token, empty for one without a name.

        None: no candidate is a token. The time it takes does not depend on the match.
        """
        found: str | None = None
        known = dict.fromkeys(self._setting_digests, "")
        if self._file is not None:
            known |= self._file.names
        for digest in hash_tokens(candidates):
            for one, name in known.items():
                if hmac.compare_digest(digest, one):
                    found = name
        return found

    def refresh_if_due(self) -> Awaitable[None] | None:
        """Returns the look at the file to await when one is due or under way, else None.

        All requests wait for it, so that none is answered by tokens that were replaced before.
        """
        if self._file is None:
            return None
        if self._check is None:
            if time.monotonic() - self._checked_at < CHECK_INTERVAL:
                return None
            self._check = asyncio.ensure_future(asyncio.to_thread(self._file.reload_if_changed))
            self._check.add_done_callback(self._end_check)
        return self._wait(self._check)

    async def _wait(self, check: asyncio.Future[None]) -> None:
        """Waits for a look, but not for a disk that does not answer. Raises what the look did."""
        done, _ = await asyncio.wait([check], timeout=CHECK_PATIENCE)
        for one in done:
            one.result()

    def _end_check(self, check: asyncio.Future[None]) -> None:
        self._check, self._checked_at = None, time.monotonic()


def _check_setting(token: str) -> None:
    try:
        check_length(token)
    except ValueError as error:
        raise StartError(f"The setting api_tokens has {error}.") from None

"""Keeps the API tokens, compares them in constant time and re-reads their file on change."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path

from era_kernels.errors import StartError

log = logging.getLogger(__name__)

MIN_TOKEN_LENGTH = 16  # characters of a token
CHECK_INTERVAL = 1.0  # seconds between two checks of the file


class ApiTokens:
    """Holds the tokens of the settings and of a file, one a line (`#` starts a comment)."""

    def __init__(self, tokens: Sequence[str] = (), file: Path | None = None) -> None:
        """Reads the file; blocking, once at start.

        Raises StartError when the file cannot be read or a token has fewer than 16 characters.
        """
        self._setting_digests = _hash_tokens(_check_lengths(tokens, "the setting api_tokens"))
        self._file = file
        self._loaded_stamp = self._read_stamp()
        self._file_digests = self._load_file()
        self._checked_at = time.monotonic()

    def __bool__(self) -> bool:
        """Returns whether the server needs tokens, as also with a token file that is empty."""
        return self._file is not None or bool(self._setting_digests)

    def contains_any(self, candidates: Iterable[str]) -> bool:
        """Returns whether a candidate is a token; its time does not depend on the match."""
        found = False
        for digest in _hash_tokens(candidates):
            for known in (*self._setting_digests, *self._file_digests):
                found |= hmac.compare_digest(digest, known)
        return found

    def refresh_if_due(self) -> Awaitable[None] | None:
        """Returns the check of the file to await when it is due, else None."""
        current = time.monotonic()
        if self._file is None or current - self._checked_at < CHECK_INTERVAL:
            return None
        self._checked_at = current
        return asyncio.to_thread(self._reload_if_changed)

    def _reload_if_changed(self) -> None:
        stamp = self._read_stamp()
        if stamp == self._loaded_stamp or self._file is None:
            return
        self._loaded_stamp = stamp
        try:
            lines = _read_tokens(self._file)
        except (OSError, UnicodeDecodeError):
            log.warning("the token file cannot be read; the tokens read before stay in force")
            return
        weak = [line for line in lines if len(line) < MIN_TOKEN_LENGTH]
        if weak:
            log.warning("tokens that are too short are ignored", extra={"count": len(weak)})
        self._file_digests = _hash_tokens(line for line in lines if len(line) >= MIN_TOKEN_LENGTH)

    def _load_file(self) -> tuple[bytes, ...]:
        if self._file is None:
            return ()
        try:
            lines = _read_tokens(self._file)
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"The token file {self._file} cannot be read: {error}") from error
        if not lines and not self._setting_digests:
            raise StartError(f"The token file {self._file} holds no token; write one a line.")
        return _hash_tokens(_check_lengths(lines, str(self._file)))

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat() if self._file else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _read_tokens(file: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def _check_lengths(tokens: Iterable[str], where: str) -> Sequence[str]:
    found = [token.strip() for token in tokens if token.strip()]
    if any(len(token) < MIN_TOKEN_LENGTH for token in found):
        raise StartError(
            f"A token in {where} is shorter than {MIN_TOKEN_LENGTH} characters. "
            "Make one with: openssl rand -hex 32"
        )
    return found


def _hash_tokens(tokens: Iterable[str]) -> tuple[bytes, ...]:
    """Returns digests of the tokens: all have one length, so comparing hides a token's length."""
    return tuple(hashlib.sha256(token.encode("utf-8", "replace")).digest() for token in tokens)

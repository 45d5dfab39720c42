"""The API tokens: compared in constant time, re-read when their file changes."""

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

MIN_LENGTH = 16  # characters of a token
LOOK_EVERY = 1.0  # seconds between two looks at the file


class Tokens:
    """Tokens from the settings and from a file with one token a line (`#` starts a comment)."""

    def __init__(self, tokens: Sequence[str] = (), file: Path | None = None) -> None:
        """Reads the file; blocking, once at start.

        Raises StartError when the file cannot be read, or there is a token of under 16 characters.
        """
        self._fixed = _digests(_strong(tokens, "the setting api_tokens"))
        self._file = file
        self._seen = self._stamp()
        self._from_file = self._first_read()
        self._looked_at = time.monotonic()

    def __bool__(self) -> bool:
        """A server that was started with tokens stays closed, also when its file is emptied."""
        return self._file is not None or bool(self._fixed)

    def accept(self, candidates: Iterable[str]) -> bool:
        """Is one of them a token? Takes as long whichever it is, and however much is right."""
        found = False
        for digest in _digests(candidates):
            for known in (*self._fixed, *self._from_file):
                found |= hmac.compare_digest(digest, known)
        return found

    def refresh(self) -> Awaitable[None] | None:
        """Something to await when it is time to look at the file again, else None."""
        present = time.monotonic()
        if self._file is None or present - self._looked_at < LOOK_EVERY:
            return None
        self._looked_at = present
        return asyncio.to_thread(self._look)

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen or self._file is None:
            return
        self._seen = stamp
        try:
            lines = _lines(self._file)
        except (OSError, UnicodeDecodeError):
            log.warning("the token file cannot be read; the tokens read before stay in force")
            return
        weak = [line for line in lines if len(line) < MIN_LENGTH]
        if weak:
            log.warning("tokens that are too short are ignored", extra={"count": len(weak)})
        self._from_file = _digests(line for line in lines if len(line) >= MIN_LENGTH)

    def _first_read(self) -> tuple[bytes, ...]:
        if self._file is None:
            return ()
        try:
            lines = _lines(self._file)
        except (OSError, UnicodeDecodeError) as problem:
            raise StartError(f"The token file {self._file} cannot be read: {problem}") from problem
        if not lines and not self._fixed:
            raise StartError(f"The token file {self._file} holds no token; write one a line.")
        return _digests(_strong(lines, str(self._file)))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat() if self._file else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _lines(file: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def _strong(tokens: Iterable[str], where: str) -> Sequence[str]:
    found = [token.strip() for token in tokens if token.strip()]
    if any(len(token) < MIN_LENGTH for token in found):
        raise StartError(
            f"A token in {where} is shorter than {MIN_LENGTH} characters. "
            "Make one with: openssl rand -hex 32"
        )
    return found


def _digests(tokens: Iterable[str]) -> tuple[bytes, ...]:
    """Digests have one length, so that comparing them does not tell a token's length."""
    return tuple(hashlib.sha256(token.encode("utf-8", "replace")).digest() for token in tokens)

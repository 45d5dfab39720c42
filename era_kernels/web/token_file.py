"""Reads a file of API tokens: whole or not at all, also while it is being rewritten."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.models import MIN_TOKEN_LENGTH

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1024 * 1024
# Seconds without a change after which a file counts as written whole. The clock of files ticks only
# every few milliseconds, and within a tick a second change cannot be seen.
QUIET_TIME = 0.15
UNENDED_QUIET_TIME = 0.4  # the same, of a file that is empty or ends within a line
MAX_WAIT = 1.5  # seconds that a check waits for a file that keeps changing
_POLL_INTERVAL = 0.02

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NAME_RULE = (
    "a name is 1 to 64 letters, digits, dots, underscores, hyphens and @, "
    "and begins with a letter or a digit"
)

Names = Mapping[bytes, str]  # digest of a token → its name, which may be empty
_Identity = tuple[int, ...]


class TokenFile:
    """Holds the tokens of a file, `name:token` or a token a line (`#` starts a comment).

    While the file cannot be read, is blank or has a mistake, the tokens read before stay in force,
    so that nothing half-done locks everybody out; the log says so once. A file that holds comments
    and no token says that nobody is to be let in.
    """

    def __init__(self, path: Path, *, may_be_empty: bool) -> None:
        """Reads the file; blocking. Raises StartError, which names lines and repeats no token."""
        self._path = path
        self._settled: _Identity | None = None  # the state that was taken, or refused
        self._refused = ""  # why the present state was refused
        self.names: Names = {}
        try:
            content, self._settled = self._read_when_quiet()
            self.names = parse_tokens(content)
        except (OSError, ValueError) as error:
            raise StartError(f"The token file {path} cannot be used: {_reason(error)}.") from error
        if not self.names and not may_be_empty:
            raise StartError(f"The token file {path} holds no token; write one a line.")

    def reload_if_changed(self) -> None:
        """Takes the tokens of a file that has changed, when it is quiet; blocking."""
        try:
            status = self._path.stat()
            if self._settled == _identity(status):
                return
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it cannot be read: it is no regular file")
            content, identity = self._read_when_quiet()
            if identity is None:
                return  # it keeps changing; the next check looks again
            self._settled = identity
            names = parse_tokens(content)
            if not content.strip():
                raise ValueError("it is blank")
        except (OSError, ValueError) as error:
            self._refuse(_reason(error))
            return
        if self._refused or names != self.names:
            log.info("the token file was read again", extra={"tokens": len(names)})
        self.names, self._refused = names, ""

    def _refuse(self, reason: str) -> None:
        if reason != self._refused:
            self._refused = reason
            log.warning(
                "the token file is not used as it is; the tokens read before stay in force",
                extra={"reason": reason},
            )

    def _read_when_quiet(self) -> tuple[bytes, _Identity | None]:
        """Returns the content of a file that nobody is writing, and its identity.

        The identity is None when it kept changing until the last moment. Raises OSError.
        """
        deadline, seen, seen_at = time.monotonic() + MAX_WAIT, None, 0.0
        while True:
            content, identity, changed_at = _read(self._path)
            now = time.monotonic()
            if identity is None or identity != seen:
                seen, seen_at = identity, now
            wanted = QUIET_TIME if content.endswith(b"\n") else UNENDED_QUIET_TIME
            # The times of a file may be those of another machine: then waiting shows it.
            if identity is not None and max(now - seen_at, time.time() - changed_at) >= wanted:
                return content, identity
            if now > deadline:
                return content, None
            time.sleep(_POLL_INTERVAL)


def parse_tokens(content: bytes) -> dict[bytes, str]:
    """Returns the digests of a file's tokens and their names.

    Raises ValueError for a mistake; it names the line and repeats nothing of it.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it cannot be read as UTF-8") from None
    found: dict[bytes, str] = {}
    lines: dict[str, int] = {}  # name → number of its line
    for number, line in enumerate(text.split("\n"), 1):
        name, token = _split(line, number)
        if not token:
            continue
        if name and name in lines:
            raise ValueError(f"line {number} has the same name as line {lines[name]}")
        lines[name] = number
        digest = hash_token(token)
        if found.setdefault(digest, name) != name:
            raise ValueError(f"line {number} has the token of another name")
    return found


def check_length(token: str) -> None:
    """Raises ValueError for a token that could be guessed."""
    if len(token) < MIN_TOKEN_LENGTH:
        raise ValueError(
            f"a token that is too short: shorter than {MIN_TOKEN_LENGTH} characters "
            "(make one with: openssl rand -hex 32)"
        )


def hash_token(token: str) -> bytes:
    """Returns the digest of a token: all have one length, so comparing hides a token's length."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def hash_tokens(tokens: Iterable[str]) -> tuple[bytes, ...]:
    """Returns the digests of tokens, in their order."""
    return tuple(hash_token(token) for token in tokens)


def _split(line: str, number: int) -> tuple[str, str]:
    """Returns name and token of a line, which may be empty. Raises ValueError."""
    text = line.partition("#")[0].strip()
    name, colon, token = text.rpartition(":")
    name, token = name.strip(), token.strip()
    if colon and not _NAME.fullmatch(name):
        raise ValueError(f"line {number} has no good name before its colon: {_NAME_RULE}")
    if text:
        try:
            check_length(token)
        except ValueError as error:
            raise ValueError(f"line {number} has {error}") from None
    return name, token


def _read(path: Path) -> tuple[bytes, _Identity | None, float]:
    """Returns content, identity and the time of the last change; no identity when it changed."""
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        content = file.read(MAX_FILE_BYTES + 1)
        after = os.fstat(file.fileno())
    if not stat.S_ISREG(after.st_mode):
        return content, _identity(after), 0.0  # a pipe, which is read once
    states = {_identity(before), _identity(after), _identity(path.stat())}
    return content, states.pop() if len(states) == 1 else None, after.st_ctime


def _identity(status: os.stat_result) -> _Identity:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
    )


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror})"
    return str(error)

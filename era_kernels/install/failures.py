"""Tells what failed: one sentence, and the last lines of a tool in a log, without secrets."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from era_kernels.errors import StartError

_UNREACHABLE = (
    r"connect|proxy|timed? ?out|ETIMEDOUT|ECONN\w+|ENOTFOUND|EAI_AGAIN|EPIPE|ERR_SOCKET"
    r"|name resolution|no such host|unreachable|incompleteread|unexpected EOF|dial tcp"
    r"|error sending request|certificate"
)
DAMAGED = "what came has another checksum: it was cut off on its way, or is another file"
FILE_LIMIT = "a file would be larger than this user may write (ulimit -f)"
# What tools write on stderr, and what it means. The first that is found counts.
_CAUSES = (
    (r"no space left|ENOSPC|disk quota exceeded|EDQUOT", "the disk is full"),
    (r"file too large|EFBIG|file size limit exceeded", FILE_LIMIT),
    (
        r"do not match the hashes|EINTEGRITY|checksum mismatch|SECURITY ERROR",
        DAMAGED,
    ),
    (r"no module named pip\b", "this Python has no pip (python -m ensurepip adds it)"),
    (
        _UNREACHABLE,
        "the package index or registry cannot be reached, or broke off",
    ),
    (
        r"no matching distribution|could not find a version|E404|404 not found",
        "no package index or registry that can be reached has it for this platform",
    ),
    (r"permission denied|EACCES|EPERM|read-only file system|EROFS", "a file cannot be written"),
)
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?:[^\s/'\"<>@]*:(?!\d+/)[^\s'\"<>]*@|[^\s/'\"<>@]*@)?"  # a password may hold slashes
    r"([^\s/?#'\"<>]*)[^\s'\"<>]*"
)
_CREDENTIALS = re.compile(r"[^\s/:@'\"]+:[^\s/@'\"]+@(?=[\w.\[-])")
_PATH_OF_URL = re.compile(r"(['\"]: )/\S+")  # pip, of a request that it repeats
_FIELD = re.compile(r"((?:authorization|_auth\w*|token|password|secret)\S{0,2}[:= ]+)\S.*", re.I)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class InstallFailed(StartError):
    """A part of a toolchain could not be installed; the text is a sentence without its stop."""


def find_cause(lines: Sequence[str]) -> str | None:
    """Returns what the last lines of a tool mean, None when that is not known.

    >>> find_cause(["npm error code ENOSPC"])
    'the disk is full'
    """
    text = "\n".join(lines)
    return next((cause for words, cause in _CAUSES if re.search(words, text, re.IGNORECASE)), None)


def describe_os_error(error: OSError) -> str:
    """Returns what stopped the installer itself."""
    if error.errno in _FULL:
        return "the disk is full, or this user may not use more of it"
    if error.errno == errno.EFBIG:
        return FILE_LIMIT
    if error.errno in _FORBIDDEN:
        return f"{error.filename} cannot be written: name another directory with --toolchain-dir"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def hide_secrets(line: str) -> str:
    """Returns a line of a tool without what may be secret: of URLs only the host stays.

    >>> hide_secrets("GET https://me:pw@host:1/token/simple/x failed")
    'GET https://host:1/… failed'
    """
    line = _URL.sub(r"\1\2/…", line)
    line = _CREDENTIALS.sub("…@", line)
    line = _PATH_OF_URL.sub(r"\1/…", line)
    return _FIELD.sub(r"\1…", line)


def write_log(file: Path, heading: str, lines: Sequence[str]) -> Path | None:
    """Writes the last lines of what failed (blocking); returns the file, None on a full disk."""
    text = "\n".join([heading, "", *map(hide_secrets, lines)]) + "\n"
    with suppress(OSError):
        file.write_text(text, "utf-8")
        return file
    return None

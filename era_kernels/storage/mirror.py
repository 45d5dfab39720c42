"""`.session_data.json`: the mirror of a session's data in its workspace (all blocking)."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from era_kernels.models import JsonObject
from era_kernels.storage.beneath import open_regular
from era_kernels.storage.owners import give
from era_kernels.storage.strict_json import parse_object
from era_kernels.storage.trees import opened

NAME = ".session_data.json"
LARGEST = 1024 * 1024  # bytes that are read
_NEW = "session_data.new"  # in the session's state, on its way into the workspace

Stamp = tuple[int, int, int]  # inode, size, mtime in ns: what changes when a file is written


@dataclass(frozen=True, slots=True)
class Mirror:
    """The data that the file showed when it had that stamp."""

    data: JsonObject
    stamp: Stamp | None


def written(workspace: int, state: int, data: JsonObject, mirror: Mirror | None) -> Mirror:
    """Make the file show `data`, where it does not already. Raises OSError.

    The file is made out of the code's sight and renamed. A directory of the user in its place
    that is not empty stays, and there is no file then.
    """
    if mirror is not None and _shows(mirror, data) and _untouched(workspace, mirror):
        return mirror
    _drop_new(state)  # of a server that was killed
    try:
        stamp = _made(state, workspace, encoded(data))
        return Mirror(data, stamp if _moved_in(workspace, state) else None)
    finally:
        _drop_new(state)


def read(workspace: int, mirror: Mirror) -> tuple[Mirror | None, JsonObject | None]:
    """What the file shows now; and the data, if the code changed it.

    No mirror when the file is missing or broken, so that it is written anew. Raises OSError.
    """
    if _untouched(workspace, mirror):
        return mirror, None
    try:
        with opened(open_regular(workspace, NAME)) as file:
            stamp = _stamp(os.fstat(file))
            text = _read(file)
    except OSError:
        return None, None
    data = None if text is None else parse_object(text)
    if data is None:
        return None, None
    changed = encoded(data) != encoded(mirror.data)
    return Mirror(data if changed else mirror.data, stamp), data if changed else None


def encoded(data: JsonObject) -> bytes:
    """Compact JSON, which tells 1 from 1.0 and from true, as comparing values does not."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _shows(mirror: Mirror, data: JsonObject) -> bool:
    return mirror.data is data or encoded(mirror.data) == encoded(data)


def _untouched(workspace: int, mirror: Mirror) -> bool:
    """The file is still the one that the mirror tells of."""
    try:
        status = os.stat(NAME, dir_fd=workspace, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and _stamp(status) == mirror.stamp


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _made(state: int, workspace: int, text: bytes) -> Stamp:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with opened(os.open(_NEW, flags, 0o644, dir_fd=state)) as file:
        _write_all(file, text)
        give(file, workspace)
        return _stamp(os.fstat(file))


def _drop_new(state: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=state)


def _moved_in(workspace: int, state: int) -> bool:
    try:
        os.rename(_NEW, NAME, src_dir_fd=state, dst_dir_fd=workspace)
    except IsADirectoryError:
        try:
            os.rmdir(NAME, dir_fd=workspace)
            os.rename(_NEW, NAME, src_dir_fd=state, dst_dir_fd=workspace)
        except OSError:
            return False
    return True


def _read(file: int) -> bytes | None:
    """The whole file; None when it is larger than it may be."""
    data = b""
    while piece := os.read(file, LARGEST + 1 - len(data)):
        data += piece
    return data if len(data) <= LARGEST else None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]

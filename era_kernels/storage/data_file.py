"""`.session_data.json`: the mirror of a session's data in its workspace (all blocking)."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from era_kernels.models import JsonObject
from era_kernels.safe_fs.openat import open_regular
from era_kernels.safe_fs.tree import closing_fd
from era_kernels.storage.ownership import chown_like
from era_kernels.storage.strict_json import loads_object_or_none

NAME = ".session_data.json"
MAX_BYTES = 1024 * 1024  # bytes that are read
_TEMPORARY_NAME = "session_data.new"  # in the session's state, on its way into the workspace

FileStamp = tuple[int, int, int]  # inode, size, mtime in ns: what changes when a file is written


@dataclass(frozen=True, slots=True)
class DataFile:
    """The data that the file showed when it had that stamp."""

    data: JsonObject
    stamp: FileStamp | None


def write_if_changed(
    workspace: int, state: int, data: JsonObject, data_file: DataFile | None
) -> DataFile:
    """Make the file show `data`, where it does not already. Raises OSError.

    The file is made out of the code's sight and renamed. A directory of the user in its place
    that is not empty stays, and there is no file then.
    """
    if data_file is not None and _equals(data_file, data) and _is_unchanged(workspace, data_file):
        return data_file
    _remove_temporary(state)  # of a server that was killed
    try:
        stamp = _write_temporary(state, workspace, encode_data(data))
        return DataFile(data, stamp if _move_into_workspace(workspace, state) else None)
    finally:
        _remove_temporary(state)


def read_changes(workspace: int, data_file: DataFile) -> tuple[DataFile | None, JsonObject | None]:
    """What the file shows now; and the data, if the code changed it.

    No mirror when the file is missing or broken, so that it is written anew. Raises OSError.
    """
    if _is_unchanged(workspace, data_file):
        return data_file, None
    try:
        with closing_fd(open_regular(workspace, NAME)) as file:
            stamp = _stamp_of(os.fstat(file))
            text = _read_bounded(file)
    except OSError:
        return None, None
    data = None if text is None else loads_object_or_none(text)
    if data is None:
        return None, None
    changed = encode_data(data) != encode_data(data_file.data)
    return DataFile(data if changed else data_file.data, stamp), data if changed else None


def encode_data(data: JsonObject) -> bytes:
    """Compact JSON, which tells 1 from 1.0 and from true, as comparing values does not."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _equals(data_file: DataFile, data: JsonObject) -> bool:
    return data_file.data is data or encode_data(data_file.data) == encode_data(data)


def _is_unchanged(workspace: int, data_file: DataFile) -> bool:
    """The file is still the one that the mirror tells of."""
    try:
        status = os.stat(NAME, dir_fd=workspace, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and _stamp_of(status) == data_file.stamp


def _stamp_of(status: os.stat_result) -> FileStamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _write_temporary(state: int, workspace: int, text: bytes) -> FileStamp:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing_fd(os.open(_TEMPORARY_NAME, flags, 0o644, dir_fd=state)) as file:
        _write_all(file, text)
        chown_like(file, workspace)
        return _stamp_of(os.fstat(file))


def _remove_temporary(state: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_TEMPORARY_NAME, dir_fd=state)


def _move_into_workspace(workspace: int, state: int) -> bool:
    try:
        os.rename(_TEMPORARY_NAME, NAME, src_dir_fd=state, dst_dir_fd=workspace)
    except IsADirectoryError:
        try:
            os.rmdir(NAME, dir_fd=workspace)
            os.rename(_TEMPORARY_NAME, NAME, src_dir_fd=state, dst_dir_fd=workspace)
        except OSError:
            return False
    return True


def _read_bounded(file: int) -> bytes | None:
    """The whole file; None when it is larger than it may be."""
    data = b""
    while piece := os.read(file, MAX_BYTES + 1 - len(data)):
        data += piece
    return data if len(data) <= MAX_BYTES else None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]

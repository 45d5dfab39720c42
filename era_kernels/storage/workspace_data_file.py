"""Reads and writes `.session_data.json`, which shows a session's data to its code (blocking)."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from era_kernels.json_codec import loads_object_or_none
from era_kernels.models import JsonObject
from era_kernels.safe_fs.openat import open_regular, raise_shortage
from era_kernels.safe_fs.tree import closing_fd
from era_kernels.storage.file_ownership import chown_like
from era_kernels.storage.writing import write_all

NAME = ".session_data.json"
MAX_BYTES = 1024 * 1024  # bytes that are read
_TEMPORARY_NAME = "session_data.new"  # in the session's `state` directory

# Data hold no cycles, and to look for them takes half of the time, in which nothing else goes on.
_encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))

FileStamp = tuple[int, int, int]  # inode, size, mtime in ns: one of them changes with each write


@dataclass(frozen=True, slots=True)
class WorkspaceDataFile:
    """The data that the file held when it had that stamp; `stamp` is None without a file."""

    data: JsonObject
    stamp: FileStamp | None


def write_if_changed(
    workspace: int, state: int, data: JsonObject, data_file: WorkspaceDataFile | None
) -> WorkspaceDataFile:
    """Writes `data` to the file, unless the file holds the same already. Raises OSError.

    The file is made where code cannot see it, and then renamed. A directory in its place that is
    not empty stays, and there is no file then.
    """
    if data_file is not None and _equals(data_file, data) and _is_unchanged(workspace, data_file):
        return data_file
    _remove_temporary(state)  # left by a killed server
    try:
        stamp = _write_temporary(state, workspace, encode_data(data))
        return WorkspaceDataFile(data, stamp if _move_into_workspace(workspace, state) else None)
    finally:
        _remove_temporary(state)


def read_changes(
    workspace: int, data_file: WorkspaceDataFile
) -> tuple[WorkspaceDataFile | None, JsonObject | None]:
    """Returns what the file holds now, and the data if code changed them.

    The first is None when the file is missing or broken, so that the next write makes it anew.
    Raises OSError.
    """
    if _is_unchanged(workspace, data_file):
        return data_file, None
    try:
        with closing_fd(open_regular(workspace, NAME)) as file:
            stamp = _stamp_of(os.fstat(file))
            text = _read_bounded(file)
    except OSError as error:
        raise_shortage(error)  # what code wrote must not be taken for broken, and written over
        return None, None
    data = None if text is None else loads_object_or_none(text)
    if data is None:
        return None, None
    changed = encode_data(data) != encode_data(data_file.data)
    return WorkspaceDataFile(data if changed else data_file.data, stamp), data if changed else None


def encode_data(data: JsonObject) -> bytes:
    """Encodes data as compact JSON, in which 1, 1.0 and true differ; as values they are equal."""
    return _encoder.encode(data).encode("utf-8", "replace")


def _equals(data_file: WorkspaceDataFile, data: JsonObject) -> bool:
    return data_file.data is data or encode_data(data_file.data) == encode_data(data)


def _is_unchanged(workspace: int, data_file: WorkspaceDataFile) -> bool:
    """Returns True if the file still has the stamp of `data_file`."""
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
        write_all(file, text)
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
    """Reads the whole file; returns None when it is larger than MAX_BYTES."""
    data = b""
    while chunk := os.read(file, MAX_BYTES + 1 - len(data)):
        data += chunk
    return data if len(data) <= MAX_BYTES else None

"""Writes and removes the files of toolchains, so that no crash leaves half of one."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path


def write_durably(file: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all, also after a crash (blocking)."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
    _fsync(file.parent)


def sync_file_system(directory: Path) -> None:
    """Waits until all that was written to the directory's file system is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Removes a file or a tree, also one with folders that are not writable (blocking)."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        _make_writable(path)
        shutil.rmtree(path)


def _make_writable(path: Path) -> None:
    """Lets the folders of a tree be changed; those of Go's modules are read-only."""
    path.chmod(0o700)
    for parent, names, _ in os.walk(path):
        for folder in (Path(parent, name) for name in names):
            if not folder.is_symlink():
                folder.chmod(0o700)


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

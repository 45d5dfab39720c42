"""Finds the files of databases: `<namespace>.db`, with a write-ahead log while they are open."""

from __future__ import annotations

from pathlib import Path

from era_kernels.models.storage_namespaces import NAMESPACE_PATTERN

SUFFIX = ".db"


def find_databases(directory: Path) -> dict[str, tuple[int, bool]]:
    """Returns the bytes of each namespace's files, and whether it was closed in order."""
    if not directory.exists():
        return {}
    found = {}
    for path in directory.glob(f"*{SUFFIX}"):
        namespace = path.name.removesuffix(SUFFIX)
        if NAMESPACE_PATTERN.fullmatch(namespace) and path.is_file():
            found[namespace] = (size_with_log(path), not has_log(path))
    return found


def has_log(path: Path) -> bool:
    """Returns whether a database has a write-ahead log; an empty one counts."""
    return _log(path).exists()


def size_with_log(path: Path) -> int:
    """Returns the bytes of a database and its write-ahead log; what does not exist has none."""
    return sum(_size(file) for file in (path, _log(path)))


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

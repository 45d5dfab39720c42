"""Writes the objects of a namespace to a directory or a tar archive, and reads them back.

An archive holds `objects/<number>`, the bytes, and `index.jsonl`, a line for each object: keys may
be any text, and are no names of files.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

from era_kernels.errors import StartError
from era_kernels.storage_commands.r2_client import ObjectInfo, R2Client, Reader
from era_kernels.storage_commands.server_or_directory import CHUNK_BYTES

INDEX = "index.jsonl"
_NAME = re.compile(r"objects/[0-9]{1,18}")


class Archive(Protocol):
    """Files by name, to write or to read."""

    def write(self, name: str, source: Reader, size: int) -> None: ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]: ...


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, source: Reader, size: int) -> None:
        file = self._path / name
        file.parent.mkdir(exist_ok=True)
        with file.open("xb") as target:
            shutil.copyfileobj(cast(BinaryIO, source), target, CHUNK_BYTES)

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        file = self._path / name
        if file.is_symlink():
            raise ValueError(name)
        return file.open("rb")


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def write(self, name: str, source: Reader, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        self._tar.addfile(member, cast(BinaryIO, source))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        file = self._tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        with file:
            yield file


@contextmanager
def creating(target: Path) -> Iterator[Archive]:
    """Makes an archive: a tar if its name ends in `.tar`, else a directory. Raises StartError."""
    try:
        if target.suffix == ".tar":
            with tarfile.open(target, "x") as tar:
                yield _Tar(tar)
        else:
            target.mkdir(parents=True)
            yield _Directory(target)
    except FileExistsError as error:
        raise StartError(f"{target} exists already: export to another name.") from error
    except OSError as error:
        raise StartError(f"{target} cannot be written ({error.strerror}).") from error


@contextmanager
def reading(source: Path) -> Iterator[Archive]:
    """Opens an archive. Raises StartError for what is none, also while it is read."""
    try:
        if source.is_dir():
            yield _Directory(source)
        else:
            with tarfile.open(source) as tar:
                yield _Tar(tar)
    except (OSError, tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise StartError(f"{source} is no export of a namespace, or a damaged one.") from error


def export_objects(objects: R2Client, namespace: str, archive: Archive) -> int:
    """Writes all objects of a namespace; returns how many. Raises EraError, StartError."""
    lines = []
    for number, (key, _) in enumerate(objects.list(namespace), 1):
        name = f"objects/{number:08}"
        with objects.open(namespace, key) as (info, reader):
            archive.write(name, reader, info.size)
        described = {
            "key": key,
            "file": name,
            "size": info.size,
            "etag": info.etag,
            "contentType": info.content_type,
            "customMetadata": dict(info.custom_metadata),
        }
        lines.append(json.dumps(described, ensure_ascii=False).encode() + b"\n")
    index = b"".join(lines)
    archive.write(INDEX, io.BytesIO(index), len(index))
    return len(lines)


def import_objects(objects: R2Client, namespace: str, archive: Archive) -> int:
    """Puts all objects of an archive, after a look at each; returns how many.

    Raises EraError, StartError; OSError, ValueError, KeyError, TypeError for a damaged archive.
    """
    with archive.open(INDEX) as index:
        lines = [json.loads(line) for line in index]
    for line in lines:
        with archive.open(_checked_name(line)) as file:
            if _md5_of(file) != line["etag"]:
                raise ValueError(line["file"])
    for line in lines:
        info = ObjectInfo(line["size"], line["etag"], line["contentType"], line["customMetadata"])
        with archive.open(line["file"]) as file:
            objects.put(namespace, line["key"], cast(BinaryIO, file), info)
    return len(lines)


def _checked_name(line: Any) -> str:
    """Returns the name of an object's file, which must not lead elsewhere. Raises ValueError."""
    if not _NAME.fullmatch(line["file"]) or not isinstance(line["key"], str):
        raise ValueError(line["file"])
    return str(line["file"])


def _md5_of(file: IO[bytes]) -> str:
    found = hashlib.md5(usedforsecurity=False)
    while chunk := file.read(CHUNK_BYTES):
        found.update(chunk)
    return found.hexdigest()

"""Defines `era-kernels storage`: lists, gets, puts, deletes, exports and imports what is stored."""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from era_kernels.errors import InvalidRequest, StartError
from era_kernels.models.storage import NAMESPACE_PATTERN, NAMESPACE_RULE
from era_kernels.settings import Settings
from era_kernels.storage_commands import archives
from era_kernels.storage_commands.objects import CHUNK_BYTES, ObjectInfo, Objects, open_objects

_PATH = click.Path(path_type=Path)


@click.group()
def storage() -> None:
    """Work on what is stored, through the server while one runs, else on its directory.

    TYPE is r2.
    """


def _with_access(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what says where the data is, and TYPE and NAMESPACE."""
    for option in (
        click.option("--data-dir", default=None, metavar="VALUE", help="As for `serve`."),
        click.option("--token", envvar="ERA_TOKEN", help="The server's token. [ERA_TOKEN]"),
        click.option("--url", envvar="ERA_URL", help="The server's address. [ERA_URL]"),
        click.argument("namespace"),
        click.argument("type_", metavar="TYPE", type=click.Choice(["r2"])),
    ):
        command = option(command)
    return command


@contextmanager
def _opened(access: dict[str, Any]) -> Iterator[tuple[Objects, str]]:
    """Opens the objects that the options of `_with_access` name; also gives the namespace."""
    namespace = access["namespace"]
    if not NAMESPACE_PATTERN.fullmatch(namespace):
        raise InvalidRequest(f"A namespace {NAMESPACE_RULE}.")
    flags = {} if access["data_dir"] is None else {"data_dir": access["data_dir"]}
    try:
        with open_objects(Settings.load(flags), access["url"], access["token"]) as objects:
            yield objects, namespace
    except BrokenPipeError:
        raise  # nobody reads stdout any more, which is no failure to tell
    except OSError as error:
        raise StartError(f"{error.filename or 'A file'} cannot be used ({error.strerror}).") from (
            error
        )


@storage.command("list")
@_with_access
@click.option("--prefix", default="", help="How the keys begin.")
def list_(prefix: str, **access: Any) -> None:
    """List objects, one JSON object a line."""
    with _opened(access) as (objects, namespace):
        for key, info in objects.list(namespace, prefix):
            click.echo(json.dumps({"key": key, "size": info.size, "etag": info.etag}))


@storage.command()
@_with_access
@click.argument("key")
@click.option("-o", "--output", type=_PATH, help="A file; without it, stdout.")
def get(key: str, output: Path | None, **access: Any) -> None:
    """Write an object's bytes to a file or to stdout."""
    with _opened(access) as (objects, namespace), objects.open(namespace, key) as (_, reader):
        if output is None:
            shutil.copyfileobj(reader, sys.stdout.buffer, CHUNK_BYTES)
            sys.stdout.buffer.flush()
        else:
            with output.open("wb") as target:
                shutil.copyfileobj(reader, target, CHUNK_BYTES)


@storage.command()
@_with_access
@click.argument("key")
@click.argument("file", type=_PATH, required=False)
@click.option("--content-type", default=None, help="Else what the file's name tells.")
def put(key: str, file: Path | None, content_type: str | None, **access: Any) -> None:
    """Store FILE, or stdin, under KEY."""
    if content_type is None:
        content_type = mimetypes.guess_type(f"/{file or key}")[0] or ""
    with _opened(access) as (objects, namespace), _input(file) as (source, size):
        objects.put(namespace, key, source, ObjectInfo(size, "", content_type))


@contextmanager
def _input(file: Path | None) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a file, or a copy of stdin, whose size is known at its end only."""
    if file is not None:
        with file.open("rb") as source:
            yield source, os.fstat(source.fileno()).st_size
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, CHUNK_BYTES)
        size = copy.tell()
        copy.seek(0)
        yield copy, size


@storage.command()
@_with_access
@click.argument("key")
def delete(key: str, **access: Any) -> None:
    """Delete an object, if there is one."""
    with _opened(access) as (objects, namespace):
        objects.delete(namespace, key)


@storage.command("export")
@_with_access
@click.argument("target", type=_PATH)
def export(target: Path, **access: Any) -> None:
    """Write all objects of a namespace to a new directory, or to a file that ends in .tar."""
    with _opened(access) as (objects, namespace), archives.creating(target) as archive:
        count = archives.export_objects(objects, namespace, archive)
    click.echo(f"exported: {count}", err=True)


@storage.command("import")
@_with_access
@click.argument("source", type=_PATH)
def import_(source: Path, **access: Any) -> None:
    """Store all objects of an export, in the place of those with the same keys."""
    with _opened(access) as (objects, namespace), archives.reading(source) as archive:
        count = archives.import_objects(objects, namespace, archive)
    click.echo(f"imported: {count}", err=True)

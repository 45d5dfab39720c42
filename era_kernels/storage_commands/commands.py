"""Defines `era-kernels storage`: lists, gets, puts and deletes what is stored."""

from __future__ import annotations

import io
import math
import mimetypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from era_kernels.errors import InvalidRequest
from era_kernels.models import JsonObject
from era_kernels.storage_commands.d1_client import open_d1_client
from era_kernels.storage_commands.d1_tables import list_tables
from era_kernels.storage_commands.export_import import export, import_
from era_kernels.storage_commands.kv_client import Value, open_kv_client
from era_kernels.storage_commands.options import (
    PATH,
    input_file,
    only_for,
    opened,
    output_file,
    parse_object,
    with_access,
)
from era_kernels.storage_commands.r2_client import ObjectInfo, open_r2_client
from era_kernels.storage_commands.row_formats import encode_line
from era_kernels.storage_commands.server_or_directory import CHUNK_BYTES
from era_kernels.storage_commands.sql_command import sql


@click.group()
def storage() -> None:
    """Work on what is stored, through the server while one runs, else on its directory.

    TYPE is kv (values by key), d1 (SQL databases) or r2 (objects).
    """


for _command in (sql, export, import_):
    storage.add_command(_command)


@storage.command("list")
@with_access("kv", "d1", "r2")
@click.option("--prefix", default="", help="How the keys, or the names of tables, begin.")
def list_(type_: str, prefix: str, **access: Any) -> None:
    """List keys, tables or objects, one JSON object a line."""
    with output_file() as target:
        for line in _listed(type_, prefix, access):
            target.write(encode_line(line))


def _listed(type_: str, prefix: str, access: dict[str, Any]) -> Iterator[JsonObject]:
    if type_ == "kv":
        with opened(open_kv_client, access) as (values, namespace):
            for key, metadata in values.list(namespace, prefix):
                yield {"key": key, "metadata": metadata}
    elif type_ == "r2":
        with opened(open_r2_client, access) as (objects, namespace):
            for key, info in objects.list(namespace, prefix):
                yield {"key": key, "size": info.size, "etag": info.etag}
    else:
        with opened(open_d1_client, access) as (databases, namespace):
            for table in list_tables(databases, namespace):
                if table.name.startswith(prefix):
                    yield {"table": table.name, "type": table.type, "columns": table.columns}


@storage.command()
@with_access("kv", "r2")
@click.argument("key")
@click.option("-o", "--output", type=PATH, help="A file; without it, stdout.")
def get(type_: str, key: str, output: Path | None, **access: Any) -> None:
    """Write a value's text or an object's bytes to a file or to stdout, just as they are."""
    if type_ == "kv":
        with opened(open_kv_client, access) as (values, namespace):
            data = values.get(namespace, _checked(key)).text.encode()
            with output_file(output, replaces=True) as target:
                target.write(data)
    else:
        with (
            opened(open_r2_client, access) as (objects, namespace),
            objects.open(namespace, _checked(key)) as (_, reader),
            output_file(output, replaces=True) as target,
        ):
            shutil.copyfileobj(reader, target, CHUNK_BYTES)


@storage.command()
@with_access("kv", "r2")
@click.argument("key")
@click.argument("file", type=PATH, required=False)
@click.option("--value", help="The text to store, in the place of FILE.")
@click.option("--metadata", metavar="JSON", help="An object; of r2, of texts.")
@click.option(
    "--ttl",
    type=click.FloatRange(min=0, min_open=True, max=1e12),
    metavar="SECONDS",
    help="Until the key expires; for kv.",
)
@click.option("--content-type", help="For r2; else what the file's name tells.")
def put(
    type_: str,
    key: str,
    file: Path | None,
    value: str | None,
    metadata: str | None,
    ttl: float | None,
    content_type: str | None,
    **access: Any,
) -> None:
    """Store FILE, or stdin, under KEY. Metadata and expiry are replaced with the value."""
    only_for("kv", type_, ttl=ttl)
    only_for("r2", type_, content_type=content_type)
    if ttl is not None and math.isnan(ttl):
        raise click.UsageError("--ttl wants a number of seconds.")
    if value is not None and file is not None:
        raise click.UsageError("Give FILE or --value, not both.")
    about = parse_object(metadata, "--metadata")
    if type_ == "kv":
        with (
            opened(open_kv_client, access) as (values, namespace),
            _content(file, value) as (data, _),
        ):
            values.put(namespace, _checked(key), Value(_text(data.read()), about, ttl))
        return
    if not all(isinstance(one, str) for one in about.values()):
        raise click.UsageError("--metadata of an object holds texts.")
    if content_type is None:
        content_type = mimetypes.guess_type(f"/{file or key}")[0] or ""
    with opened(open_r2_client, access) as (objects, namespace), _content(file, value) as found:
        source, size = found
        objects.put(namespace, _checked(key), source, ObjectInfo(size, "", content_type, about))


@contextmanager
def _content(file: Path | None, value: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """Opens what is to be stored, and tells its size."""
    if value is None:
        with input_file(file) as found:
            yield found
    else:
        data = value.encode()
        yield io.BytesIO(data), len(data)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"KV holds text, and this is no UTF-8 (byte {error.start}): bytes belong into r2."
        ) from error


def _checked(key: str) -> str:
    """Returns a key. Raises InvalidRequest for the empty one, which would mean the list."""
    if not key:
        raise InvalidRequest("A key must not be empty.")
    return key


@storage.command()
@with_access("kv", "r2")
@click.argument("key")
def delete(type_: str, key: str, **access: Any) -> None:
    """Delete a key or an object, if there is one."""
    if type_ == "kv":
        with opened(open_kv_client, access) as (values, namespace):
            values.delete(namespace, _checked(key))
    else:
        with opened(open_r2_client, access) as (objects, namespace):
            objects.delete(namespace, _checked(key))

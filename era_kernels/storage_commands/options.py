"""Says where the commands find the data, and what their arguments and files are."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from era_kernels.errors import InvalidRequest, StartError
from era_kernels.models import JsonObject
from era_kernels.models.storage_namespaces import NAMESPACE_PATTERN, NAMESPACE_RULE
from era_kernels.settings import Settings
from era_kernels.storage_commands.server_or_directory import CHUNK_BYTES

PATH = click.Path(path_type=Path)
STANDARD = Path("-")  # the name of stdin and stdout

T = TypeVar("T")
Open = Callable[[Settings, str | None, str | None], AbstractContextManager[T]]


def with_access(*types: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds what says where the data is, TYPE where there are several, and NAMESPACE."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        options = [
            click.option("--data-dir", default=None, metavar="VALUE", help="As for `serve`."),
            click.option("--token", envvar="ERA_TOKEN", help="The server's token. [ERA_TOKEN]"),
            click.option("--url", envvar="ERA_URL", help="The server's address. [ERA_URL]"),
            click.argument("namespace"),
        ]
        if types:
            options.append(click.argument("type_", metavar="TYPE", type=click.Choice(types)))
        for option in options:
            command = option(command)
        return command

    return add


@contextmanager
def opened(open_: Open[T], access: dict[str, Any]) -> Iterator[tuple[T, str]]:
    """Opens what the options of `with_access` name; also gives the namespace.

    Raises EraError, StartError, also for files of the command that cannot be used.
    """
    namespace = access["namespace"]
    if not NAMESPACE_PATTERN.fullmatch(namespace):
        raise InvalidRequest(f"A namespace {NAMESPACE_RULE}.")
    flags = {} if access["data_dir"] is None else {"data_dir": access["data_dir"]}
    try:
        with open_(Settings.load(flags), access["url"], access["token"]) as found:
            yield found, namespace
    except BrokenPipeError:
        raise  # nobody reads stdout any more, which is no failure to tell
    except UnicodeEncodeError as error:
        raise InvalidRequest("A key, a value or SQL is no UTF-8.") from error
    except OSError as error:
        raise StartError(f"{error.filename or 'A file'} cannot be used ({error.strerror}).") from (
            error
        )


def only_for(wanted: str, type_: str, **options: object) -> None:
    """Raises click's UsageError when an option is given that only another TYPE has."""
    for name, value in options.items():
        if type_ != wanted and value not in (None, False):
            raise click.UsageError(f"--{name.replace('_', '-')} is for {wanted} only.")


def parse_object(text: str | None, option: str) -> JsonObject:
    """Returns the JSON object of an option, an empty one for none. Raises click's BadParameter."""
    try:
        found = {} if text is None else json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter(f'{option} wants a JSON object, such as \'{{"by": "me"}}\'.')
    return found


@contextmanager
def input_file(file: Path | None) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a file, or a copy of stdin (None, `-`), whose size is known at its end only."""
    if file is not None and file != STANDARD:
        with file.open("rb") as source:
            yield source, os.fstat(source.fileno()).st_size
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, CHUNK_BYTES)
        size = copy.tell()
        copy.seek(0)
        yield copy, size


@contextmanager
def output_file(file: Path | None = None, *, replaces: bool = False) -> Iterator[BinaryIO]:
    """Opens stdout (None, `-`), or a file that is there once it is whole, under its name.

    Raises StartError where one is there already, unless it `replaces` that.
    """
    if file is None or file == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if replaces and file.exists() and not file.is_file():  # a device, a pipe
        with file.open("wb") as target:
            yield target
        return
    if not replaces and file.exists():
        raise StartError(f"{file} exists already: export to another name.")
    part = file.with_name(f".{file.name[:100]}-{secrets.token_hex(8)}")
    try:
        with part.open("xb") as target:
            yield target
        if not replaces and file.exists():
            raise StartError(f"{file} exists already: export to another name.")
        part.replace(file.resolve())
    finally:
        part.unlink(missing_ok=True)

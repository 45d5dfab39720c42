"""Defines the commands that work on stored data: `backup`, `restore`, `set-aside`."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import click

from era_kernels.errors import StartError
from era_kernels.settings import Settings
from era_kernels.storage import backup as backups
from era_kernels.storage import lost_database
from era_kernels.storage.backup import Contents
from era_kernels.storage.data_directory import DataDirectory

PROGRESS_SECONDS = 1.0  # seconds between two lines of progress

_with_data_dir = click.option("--data-dir", default=None, metavar="VALUE", help="As for `serve`.")


class Progress:
    """Tells on stderr how far a command is, at most once in `PROGRESS_SECONDS`."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def report(self, what: str, done: int, total: int) -> None:
        """Tells how many of the things are done, when it is time."""
        if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            click.echo(f"{what}: {done} of {total}", err=True)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_with_data_dir
def backup(directory: Path, data_dir: str | None) -> None:
    """Copy all stored data into DIRECTORY, which must be empty or missing.

    The server may run meanwhile: every write that was answered before is in the backup.
    """
    started_at = time.monotonic()
    contents = backups.back_up(_data_dir(data_dir), directory, Progress().report)
    _report_end("backed up", contents, started_at)
    if contents.sessions:
        click.echo(
            "Files of sessions were copied one after the other, while code may have changed them.",
            err=True,
        )


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_with_data_dir
def restore(directory: Path, data_dir: str | None) -> None:
    """Bring back the backup in DIRECTORY, into a data directory that is empty or missing."""
    started_at = time.monotonic()
    contents = backups.restore(directory, _data_dir(data_dir), Progress().report)
    _report_end("restored", contents, started_at)


@click.command("set-aside")
@_with_data_dir
def set_aside(data_dir: str | None) -> None:
    """Move what the database does not know to lost+found, so that a server starts again.

    For a data directory whose database is lost and cannot be put back. Nothing is removed: when
    the database is put back after all, a start brings back what it knows.
    """
    path = _data_dir(data_dir)
    if not path.is_dir():
        raise StartError(f"There is no data directory at {path}: name it with --data-dir.")
    with closing(DataDirectory.open(path)) as directory:
        sessions, objects = asyncio.run(lost_database.set_aside(directory))
    click.echo(
        f"set aside in {directory.lost_and_found}: directories of sessions {sessions}, "
        f"objects {objects}",
        err=True,
    )


def _data_dir(flag: str | None) -> Path:
    return Settings.load({} if flag is None else {"data_dir": flag}).data_dir


def _report_end(what: str, contents: Contents, started_at: float) -> None:
    """Tells on stderr what was copied, and what could not be."""
    click.echo(
        f"{what}: objects {contents.objects}, databases {contents.databases}, sessions "
        f"{contents.sessions}, in {time.monotonic() - started_at:.1f} s",
        err=True,
    )
    if contents.lost_objects:
        click.echo(f"Objects that have lost their bytes: {contents.lost_objects}.", err=True)
    if contents.damaged_databases:
        click.echo(
            f"Databases of D1 that are damaged, and copied as they are: "
            f"{contents.damaged_databases}.",
            err=True,
        )
    if contents.partial_sessions:
        click.echo(
            f"Sessions that could not be copied whole: {contents.partial_sessions}.",
            err=True,
        )

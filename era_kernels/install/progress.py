"""Shows how an installation goes on: bars on a terminal, whole lines elsewhere, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """Is told, from several threads, what happens to each toolchain."""

    def add(self, name: str, parts: int) -> None:
        """A toolchain that has so many parts is about to be installed."""

    def begin(self, name: str, text: str) -> None:
        """Work on a part begins, which the text names."""

    def finish(self, name: str) -> None:
        """A part is done."""

    def note(self, name: str, text: str) -> None:
        """Something is to be told that is no part."""


class LineProgress:
    """Prints a line for each part that begins, and for each note."""

    def add(self, name: str, parts: int) -> None:
        pass

    def begin(self, name: str, text: str) -> None:
        self.note(name, text)

    def finish(self, name: str) -> None:
        pass

    def note(self, name: str, text: str) -> None:
        click.echo(f"{name}: {text}", err=True)


class BarProgress:
    """Shows a bar for each toolchain, in the parts that it has."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def add(self, name: str, parts: int) -> None:
        self._tasks[name] = self._bars.add_task(name, total=parts, part="")

    def begin(self, name: str, text: str) -> None:
        self._bars.update(self._tasks[name], part=text)

    def finish(self, name: str) -> None:
        self._bars.advance(self._tasks[name])

    def note(self, name: str, text: str) -> None:
        self._bars.console.print(f"{name}: {text}", markup=False, highlight=False)


@contextmanager
def open_progress(plain: bool = False) -> Iterator[Progress]:
    """Opens what suits stderr: bars where it is a terminal, else, or if `plain`, lines."""
    if plain or not sys.stderr.isatty():
        yield LineProgress()
        return
    # Imported here: no other command has bars, and the server starts sooner.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[part]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield BarProgress(bars)

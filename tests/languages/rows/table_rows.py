"""Makes functions the rows of the conformance table: what every kernel must show.

A row is a function of a session and of the programs that its arguments name. Its docstring is its
sentence in the table; `capability` is what a kernel must claim for the row to concern it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from tests.client import SessionClient
from tests.languages.kernel_programs import KernelPrograms


@dataclass(frozen=True)
class Row:
    """One row: what it shows, the capability that it needs, and how it is tried."""

    name: str
    capability: str | None
    shows: str  # in a sentence
    needs: tuple[str, ...]  # fields of KernelPrograms
    try_it: Callable[..., None]
    leaves_nothing: bool  # it may be tried in a session with others of the kind, in any order

    def run(self, session: SessionClient, programs: KernelPrograms) -> None:
        """Tries it in a session. Raises AssertionError where it does not hold."""
        self.try_it(session, **{name: getattr(programs, name) for name in self.needs})


ROWS: dict[str, Row] = {}


def row(
    capability: str | None = None, *, leaves_nothing: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function a row of the table; kernels without that capability are not concerned."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        needs = tuple(inspect.signature(function).parameters)[1:]
        shows = (inspect.getdoc(function) or "").splitlines()[0]
        name = function.__name__
        ROWS[name] = Row(name, capability, shows, needs, function, leaves_nothing)
        return function

    return add


def check(answer: dict, **expected: object) -> None:
    """Compares the fields named, showing the whole answer when one differs."""
    assert {name: answer.get(name) for name in expected} == expected, answer


def open_sibling(session: SessionClient, **body: object) -> SessionClient:
    """Creates another session of the same kernel."""
    own = session.get()
    same = {name: own[name] for name in ("language", "kernel") if own.get(name) is not None}
    created = session.http.post("/api/sessions", json={**same, **body}).raise_for_status().json()
    return SessionClient(session.http, created["id"])

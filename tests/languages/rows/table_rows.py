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
    languages: tuple[str, ...] | None  # that it concerns; None: all
    leaves_nothing: bool  # that others of the kind notice, in one session and in any order
    is_long: bool = False  # it belongs to the tests that take long

    def run(self, session: SessionClient, programs: KernelPrograms) -> None:
        """Tries it in a session. Raises AssertionError where it does not hold."""
        self.try_it(session, **{name: getattr(programs, name) for name in self.needs})


ROWS: dict[str, Row] = {}


def row(
    capability: str | None = None,
    *,
    languages: tuple[str, ...] | None = None,
    leaves_nothing: bool = False,
    is_long: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function a row of the table.

    Kernels without that capability, and of other languages, are not concerned.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        needs = tuple(inspect.signature(function).parameters)[1:]
        shows = (inspect.getdoc(function) or "").splitlines()[0]
        name = function.__name__
        ROWS[name] = Row(
            name, capability, shows, needs, function, languages, leaves_nothing, is_long
        )
        return function

    return add


def program_row(
    name: str,
    shows: str,
    languages: tuple[str, ...],
    *steps: tuple[str, str] | tuple[str, str, int],
    leaves_nothing: bool = True,
) -> None:
    """Adds a row that runs programs one after the other, in a session with others if it can.

    A step is a program, what it prints to stdout, and its exit code where that is not 0.
    """

    def try_it(session: SessionClient) -> None:
        for code, stdout, *exit_code in steps:
            answer = session.run(code)
            expected_code = exit_code[0] if exit_code else 0
            check(answer, stdout=stdout, exit_code=expected_code)
            assert bool(answer["stderr"]) <= (expected_code == 1), answer

    ROWS[name] = Row(name, None, shows, (), try_it, languages, leaves_nothing)


def check(answer: dict, **expected: object) -> None:
    """Compares the fields named, showing the whole answer when one differs."""
    assert {name: answer.get(name) for name in expected} == expected, answer


def open_sibling(session: SessionClient, **body: object) -> SessionClient:
    """Creates another session of the same kernel."""
    own = session.get()
    same = {name: own[name] for name in ("language", "kernel") if own.get(name) is not None}
    created = session.http.post("/api/sessions", json={**same, **body}).raise_for_status().json()
    return SessionClient(session.http, created["id"])

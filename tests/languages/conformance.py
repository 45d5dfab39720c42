"""Tries the rows of the conformance table with the kernels of its columns, on one server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client import Client
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows import ROWS
from tests.languages.rows.table_rows import Row
from tests.server_process import temporary_launcher

OUTCOME = "conformance"  # the property of a test's report that names its row and column


def cases(columns: list[KernelPrograms]) -> list[pytest.ParameterSet]:
    """Returns what is to be tried: rows that a kernel claims and has programs for.

    A row that does not hold must fail: when it holds after all, its test fails.
    """
    found = []
    for programs in columns:
        for row in ROWS.values():
            if cell_without_a_run(programs, row) is None:
                reason = programs.does_not_hold.get(row.name)
                marks = [] if reason is None else [expected_failure(reason)]
                found.append(
                    pytest.param(programs, row, id=f"{programs.column}-{row.name}", marks=marks)
                )
    return found


def expected_failure(reason: str) -> pytest.MarkDecorator:
    """Returns the mark of a row that does not hold."""
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)


def cell_without_a_run(programs: KernelPrograms, row: Row) -> str | None:
    """Returns why a row is not run with a kernel; None when it is, "" when it claims no such."""
    if row.capability is not None and row.capability not in programs.capabilities:
        return ""
    return programs.reason_against(row.needs)


def try_row(client: Client, programs: KernelPrograms, row: Row) -> None:
    """Tries a row in a session of its own. Raises AssertionError where it does not hold.

    Skips the test where the language is not installed.
    """
    listed = client.http.get("/api/languages").json()["languages"]
    [language] = [one for one in listed if one["name"] == programs.language]
    if not language["available"]:
        pytest.skip(f"{language['name']}: {language['reason']}")
    body = {} if programs.kernel is None else {"kernel": programs.kernel}
    session = client.session(programs.language, **body)
    try:
        row.run(session, programs)
    finally:
        session.delete()


@contextmanager
def open_client(*flags: str) -> Iterator[Client]:
    """Starts a server that has the kernels of all columns."""
    with added_kernels() as directories, temporary_launcher() as launcher:
        server = launcher.start("--kernelspec-dirs", ",".join(map(str, directories)), *flags)
        client = Client(server.base_url)
        yield client
        client.close()


@contextmanager
def added_kernels() -> Iterator[list[Path]]:
    """Adds the kernels that do not come with the package; yields `kernelspec_dirs`."""
    with tempfile.TemporaryDirectory(prefix="era-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # sessions may have uids of their own
        added = [one.add_to(directory) for one in ALL_PROGRAMS if one.add_to is not None]
        yield list(dict.fromkeys(added))

"""Tries the rows of the conformance table with the kernels of its columns, on one server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client import Client, SessionClient
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.rows import ROWS
from tests.languages.rows.table_rows import Row
from tests.server_process import temporary_launcher

OUTCOME = "conformance"  # the property of a test's report that names its row and column


def cases(columns: Sequence[KernelPrograms]) -> list[pytest.ParameterSet]:
    """Returns what is to be tried: rows that a kernel claims and has programs for.

    A row that does not hold must fail: when it holds after all, its test fails.
    """
    found: list[pytest.ParameterSet] = []
    for programs in columns:
        for row in ROWS.values():
            if cell_without_a_run(programs, row) is None:
                reason = programs.does_not_hold.get(row.name)
                marks = [] if reason is None else [expected_failure(reason)]
                marks += [pytest.mark.long] if row.is_long else []
                found.append(
                    pytest.param(programs, row, id=f"{programs.column}-{row.name}", marks=marks)
                )
    return found


def expected_failure(reason: str) -> pytest.MarkDecorator:
    """Returns the mark of a row that does not hold."""
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)


def cell_without_a_run(programs: KernelPrograms, row: Row) -> str | None:
    """Returns why a row is not run with a kernel: None when it is, "" when it is not concerned."""
    if row.capability is not None and row.capability not in programs.capabilities:
        return ""
    if row.languages is not None and programs.language not in row.languages:
        return ""
    return programs.untried.get(row.name) or programs.reason_against(row.needs)


class Sessions:
    """Opens the sessions of one server in which rows are tried.

    Rows that hold and leave nothing behind share one for each kernel, which takes long to start.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._shared: dict[str, SessionClient] = {}
        listed = client.http.get("/api/languages").json()["languages"]
        self._reasons = {one["name"]: one.get("reason") for one in listed}

    def try_row(self, programs: KernelPrograms, row: Row) -> None:
        """Tries a row. Raises AssertionError where it does not hold.

        Skips the test where the language is not installed.
        """
        if self._reasons[programs.language] is not None:
            pytest.skip(f"{programs.language}: {self._reasons[programs.language]}")
        if row.leaves_nothing and row.name not in programs.does_not_hold:
            row.run(self._shared_session(programs), programs)
            return
        session = self._open(programs)
        try:
            row.run(session, programs)
        finally:
            session.delete()

    def _shared_session(self, programs: KernelPrograms) -> SessionClient:
        if programs.column not in self._shared:
            self._shared[programs.column] = self._open(programs)
        return self._shared[programs.column]

    def _open(self, programs: KernelPrograms) -> SessionClient:
        body = {} if programs.kernel is None else {"kernel": programs.kernel}
        return self.client.session(programs.language, **body)


@contextmanager
def open_sessions(directories: Sequence[Path], *flags: str) -> Iterator[Sessions]:
    """Starts a server that has the kernels in these directories beside its own."""
    with temporary_launcher() as launcher:
        server = launcher.start("--kernelspec-dirs", ",".join(map(str, directories)), *flags)
        client = Client(server.base_url)
        yield Sessions(client)
        client.close()


@contextmanager
def added_kernels(columns: Sequence[KernelPrograms]) -> Iterator[list[Path]]:
    """Adds the kernels that do not come with the package; yields `kernelspec_dirs`."""
    with tempfile.TemporaryDirectory(prefix="era-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # sessions may have uids of their own
        added = [one.add_to(directory) for one in columns if one.add_to is not None]
        yield list(dict.fromkeys(added))

"""Foreign exceptions become domain errors by one table."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from era_kernels.errors import InsufficientStorage, StorageFailed, StorageUnavailable
from era_kernels.storage.error_mapping import FOREIGN_ERRORS, NO_SPACE_CODES, to_domain_error


def _all(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _all(child))]


def test_the_table_covers_every_foreign_family() -> None:
    """Every class of sqlite3 that can be raised is in a family of the table."""
    raised = {
        value
        for value in vars(sqlite3).values()
        if isinstance(value, type) and issubclass(value, Exception) and value is not sqlite3.Warning
    }
    assert raised == {cls for cls in raised if issubclass(cls, FOREIGN_ERRORS)}
    assert set(FOREIGN_ERRORS) == set(NO_SPACE_CODES)


@pytest.mark.parametrize("cls", _all(sqlite3.Error))
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, InsufficientStorage),
        (sqlite3.SQLITE_IOERR_SHMSIZE, InsufficientStorage),
        (sqlite3.SQLITE_IOERR, StorageFailed),
        (sqlite3.SQLITE_CORRUPT, StorageFailed),
        (None, StorageFailed),
    ],
)
def test_errors_of_sqlite(
    cls: type[sqlite3.Error], code: int | None, expected: type[StorageFailed]
) -> None:
    """A full disk is 507, everything else is 500, whatever class SQLite's error has."""
    error = cls("a reason")
    if code is not None:
        error.sqlite_errorcode = code
    assert type(to_domain_error(error)) is expected


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_errors_of_the_system(number: int) -> None:
    """A full disk is 507, no open file left is 503, every other number is 500; no path is shown."""
    failure = to_domain_error(OSError(number, "a reason", "/secret/path"))
    expected = {
        errno.ENOSPC: InsufficientStorage,
        errno.EDQUOT: InsufficientStorage,
        errno.EMFILE: StorageUnavailable,
        errno.ENFILE: StorageUnavailable,
    }
    assert type(failure) is expected.get(number, StorageFailed)
    assert (failure.retry_after is not None) is isinstance(failure, StorageUnavailable)
    assert "/secret" not in failure.message


def test_a_real_error_has_a_code() -> None:
    """What SQLite itself raises when a file may not grow is a full disk."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 3")
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    assert type(to_domain_error(caught.value)) is InsufficientStorage

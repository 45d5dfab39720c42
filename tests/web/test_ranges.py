"""The Range header: one range of bytes, or everything."""

from __future__ import annotations

import pytest

from era_kernels.errors import RangeNotSatisfiable
from era_kernels.web import ranges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-999", (2, 10)),
        ("Bytes=9-9", (9, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes= 1 - 2", (1, 3)),
    ],
)
def test_range(header: str, expected: tuple[int, int]) -> None:
    """A range is half open, and ends where the bytes end."""
    assert ranges.requested(header, 10) == expected


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4",
     "bytes=--1", "bytes=0x1-2", "bytes=" + "9" * 5000 + "-"],
)  # fmt: skip
def test_ignored(header: str | None) -> None:
    """What is malformed, of another unit or of several ranges asks for the whole."""
    assert ranges.requested(header, 10) is None


@pytest.mark.parametrize(
    ("header", "total"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_not_satisfiable(header: str, total: int) -> None:
    """A range behind the end is an error, not an empty answer."""
    with pytest.raises(RangeNotSatisfiable):
        ranges.requested(header, total)

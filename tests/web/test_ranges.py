"""The Range header: one range of bytes, or everything."""

from __future__ import annotations

from types import SimpleNamespace

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
    assert ranges.parse_range(header, 10) == expected


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4",
     "bytes=--1", "bytes=0x1-2", "bytes=" + "9" * 5000 + "-"],
)  # fmt: skip
def test_ignored(header: str | None) -> None:
    """What is malformed, of another unit or of several ranges asks for the whole."""
    assert ranges.parse_range(header, 10) is None


@pytest.mark.parametrize(
    ("header", "total"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_not_satisfiable(header: str, total: int) -> None:
    """A range behind the end is an error, not an empty answer."""
    with pytest.raises(RangeNotSatisfiable):
        ranges.parse_range(header, total)


class FakeHandler:
    """What `begin` needs of a handler."""

    def __init__(self, method: str, asked: str | None) -> None:
        headers = {} if asked is None else {"Range": asked}
        self.request = SimpleNamespace(method=method, headers=headers)
        self.status = 200
        self.headers: dict[str, object] = {}

    def set_status(self, status: int) -> None:
        self.status = status

    def set_header(self, name: str, value: object) -> None:
        self.headers[name] = value

    set_sticky_header = set_header


def begun(method: str, asked: str | None, *, applies: bool = True) -> tuple[FakeHandler, int, int]:
    answer = FakeHandler(method, asked)
    return answer, *ranges.prepare_range_response(answer, 10, is_applicable=applies)  # type: ignore[arg-type]


def test_part() -> None:
    """A range is 206, with its place and its length."""
    answer, start, stop = begun("GET", "bytes=2-4")
    assert (answer.status, start, stop) == (206, 2, 5)
    assert answer.headers == {
        "Accept-Ranges": "bytes",
        "Content-Length": 3,
        "Content-Range": "bytes 2-4/10",
    }


@pytest.mark.parametrize(
    ("method", "asked", "applies"),
    [("GET", None, True), ("GET", "lines=1-2", True), ("GET", "bytes=2-4", False),
     ("HEAD", "bytes=2-4", True), ("HEAD", "bytes=99-", True), ("GET", "bytes=99-", False)],
)  # fmt: skip
def test_whole(method: str, asked: str | None, applies: bool) -> None:
    """Nothing else asks for a part: no range, one whose condition is not met, HEAD."""
    answer, start, stop = begun(method, asked, applies=applies)
    assert (answer.status, start, stop) == (200, 0, 10)
    assert answer.headers == {"Accept-Ranges": "bytes", "Content-Length": 10}


def test_behind_the_end() -> None:
    """A range behind the end is answered with where the end is."""
    answer = FakeHandler("GET", "bytes=10-")
    with pytest.raises(RangeNotSatisfiable):
        ranges.prepare_range_response(answer, 10)  # type: ignore[arg-type]
    assert answer.headers == {"Content-Range": "bytes */10"}

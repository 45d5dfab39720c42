"""The numbers that bound sessions."""

from __future__ import annotations

import pytest

from era_kernels.errors import InvalidRequest, TooLarge
from era_kernels.services.validation import MAX_SESSION_JSON_BYTES, check_json_size, merge_data
from tests.services.service_fixture import make_service_limits


@pytest.mark.parametrize(
    ("asked", "of_session", "expected"),
    [
        (None, None, 30),
        (0, None, 30),
        (None, 5, 5),
        (0, 5, 5),
        (2.5, 5, 2.5),
        (60, None, 60),
        (None, 900, 60),  # the server's maximum was lowered since the session was made
    ],
)
def test_timeout(asked: float | None, of_session: float | None, expected: float) -> None:
    """What was asked, else the session's, else the server's, and never above the maximum."""
    assert make_service_limits(max_timeout=60).command_timeout(asked, of_session) == expected


@pytest.mark.parametrize("asked", [60.001, -1, float("inf"), float("nan")])
def test_timeout_out_of_bounds(asked: float) -> None:
    """A timeout above the maximum, or below zero, is refused by name."""
    with pytest.raises(InvalidRequest, match="`timeout` must be at most 60 seconds"):
        make_service_limits(max_timeout=60).command_timeout(asked, None)


def test_zero_is_no_default_timeout() -> None:
    """As a session's default, 0 means nothing."""
    with pytest.raises(InvalidRequest, match="default_timeout"):
        make_service_limits().check_timeout(0, "default_timeout")


def test_size_is_of_compact_json() -> None:
    """A megabyte of compact JSON is allowed, one byte more is not."""
    room = MAX_SESSION_JSON_BYTES - len('{"a":"","b":1}')
    check_json_size({"a": "x" * room, "b": 1}, "data")
    with pytest.raises(TooLarge, match="data would take 1048577 bytes"):
        check_json_size({"a": "x" * (room + 1), "b": 1}, "data")


def test_size_counts_bytes() -> None:
    """A character of three bytes counts as three; half a surrogate pair does no harm."""
    check_json_size({"a": "€" * (MAX_SESSION_JSON_BYTES // 3 - 10)}, "metadata")
    with pytest.raises(TooLarge):
        check_json_size({"a": "€" * (MAX_SESSION_JSON_BYTES // 3)}, "metadata")
    check_json_size({"a": "\ud800"}, "data")


def test_merge_is_shallow() -> None:
    """Keys of the update win as a whole; neither side is changed."""
    data, update = {"a": {"x": 1}, "b": 1}, {"a": {"y": 2}}
    assert merge_data(data, update) == {"a": {"y": 2}, "b": 1}
    assert (data, update) == ({"a": {"x": 1}, "b": 1}, {"a": {"y": 2}})

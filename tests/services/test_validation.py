"""Timeouts, sizes and data are checked against the server's limits."""

from __future__ import annotations

import pytest

from era_kernels.concurrency.cooperative import Yielder
from era_kernels.errors import InvalidRequest, TooLarge
from era_kernels.services.validation import MAX_SESSION_JSON_BYTES, check_json_size, merge_data
from tests.services.service_fixture import make_service_limits


@pytest.mark.parametrize(
    ("requested", "session_default", "expected"),
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
def test_timeout(requested: float | None, session_default: float | None, expected: float) -> None:
    """The requested timeout applies, else the session's, else the server's, up to the maximum."""
    limits = make_service_limits(max_timeout=60)
    assert limits.foreground_timeout(requested, session_default) == expected


@pytest.mark.parametrize("requested", [60.001, -1, float("inf"), float("nan")])
def test_timeout_out_of_bounds(requested: float) -> None:
    """A timeout above the maximum, or below zero, is refused; the error names the field."""
    with pytest.raises(InvalidRequest, match="`timeout` must be at most 60 seconds"):
        make_service_limits(max_timeout=60).foreground_timeout(requested, None)


def test_zero_is_no_default_timeout() -> None:
    """A session's default timeout cannot be 0."""
    with pytest.raises(InvalidRequest, match="default_timeout"):
        make_service_limits().check_timeout(0, "default_timeout")


async def test_size_is_of_compact_json() -> None:
    """A megabyte of compact JSON is allowed, one byte more is not."""
    available = MAX_SESSION_JSON_BYTES - len('{"a":"","b":1}')
    await check_json_size({"a": "x" * available, "b": 1}, "data")
    with pytest.raises(TooLarge, match="data would take 1048577 bytes"):
        await check_json_size({"a": "x" * (available + 1), "b": 1}, "data")


async def test_size_counts_bytes() -> None:
    """A character of three bytes counts as three; half a surrogate pair does no harm."""
    await check_json_size({"a": "€" * (MAX_SESSION_JSON_BYTES // 3 - 10)}, "metadata")
    with pytest.raises(TooLarge):
        await check_json_size({"a": "€" * (MAX_SESSION_JSON_BYTES // 3)}, "metadata")
    await check_json_size({"a": "\ud800"}, "data")


async def test_others_go_on_while_a_size_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of small values is counted in many short steps."""
    yields = 0

    async def checkpoint(self: Yielder) -> None:
        nonlocal yields
        yields += 1

    monkeypatch.setattr(Yielder, "checkpoint", checkpoint)
    await check_json_size({"a": [[1]] * 200_000}, "data")
    assert yields > 50


async def test_bombs_are_not_encoded() -> None:
    """What is far too large is refused without the time that its encoding takes."""
    names = dict.fromkeys(map(str, range(10**6)))
    for bomb in ({"a": [[]] * 10**6}, names, {"a": [{"b": "x" * 300}] * 10**5}):
        with pytest.raises(TooLarge, match="more than 2097152 bytes"):
            await check_json_size(bomb, "data")


def test_merge_is_shallow() -> None:
    """Keys of the update win as a whole; neither side is changed."""
    data, update = {"a": {"x": 1}, "b": 1}, {"a": {"y": 2}}
    assert merge_data(data, update) == {"a": {"y": 2}, "b": 1}
    assert (data, update) == ({"a": {"x": 1}, "b": 1}, {"a": {"y": 2}})

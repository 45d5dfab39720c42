"""Conditional requests: what is still wanted, what is still meant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders

from era_kernels.errors import PreconditionFailed
from era_kernels.web import conditional
from era_kernels.web.conditional import Validators

NOW = Validators('"v1"', datetime(2025, 1, 15, 10, 30, tzinfo=UTC))
THEN = "Wed, 15 Jan 2025 10:30:00 GMT"
BEFORE = "Wed, 15 Jan 2025 10:29:59 GMT"
AFTER = "Wed, 15 Jan 2025 10:30:01 GMT"


def headers(**given: str) -> HTTPHeaders:
    return HTTPHeaders({name.replace("_", "-"): value for name, value in given.items()})


def test_last_modified() -> None:
    """The time as HTTP writes it."""
    assert NOW.last_modified == THEN


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"If_None_Match": '"v1"'}, True),
        ({"If_None_Match": 'W/"v1"'}, True),
        ({"If_None_Match": '"v0", "v1"'}, True),
        ({"If_None_Match": '"a,b","v1"'}, True),
        ({"If_None_Match": "*"}, True),
        ({"If_None_Match": '"v0"'}, False),
        ({"If_None_Match": "v1"}, False),
        ({"If_None_Match": ""}, False),
        ({"If_Modified_Since": THEN}, True),
        ({"If_Modified_Since": AFTER}, True),
        ({"If_Modified_Since": BEFORE}, False),
        ({"If_Modified_Since": "Wednesday, 15-Jan-25 10:30:00 GMT"}, True),
        ({"If_Modified_Since": "Wed Jan 15 10:30:00 2025"}, True),
        ({"If_Modified_Since": "yesterday"}, False),
        ({"If_None_Match": '"v0"', "If_Modified_Since": AFTER}, False),
        ({"If_None_Match": '"v1"', "If_Modified_Since": BEFORE}, True),
        ({"If_Match": '"v1"', "If_None_Match": '"v1"'}, True),
    ],
)
def test_unchanged(given: dict[str, str], expected: bool) -> None:
    """A read of what the caller has; an ETag wins over a time, and a weak one is enough."""
    assert conditional.is_not_modified(headers(**given), NOW) is expected


def test_nothing_is_unchanged() -> None:
    """What is not there is not had."""
    assert not conditional.is_not_modified(headers(If_None_Match="*"), None)


MET = [
    {}, {"If_Match": '"v1"'}, {"If_Match": '"v0", "v1"'}, {"If_Match": "*"},
    {"If_None_Match": '"v0"'}, {"If_Unmodified_Since": THEN}, {"If_Unmodified_Since": AFTER},
    {"If_Unmodified_Since": "soon"}, {"If_Match": '"v1"', "If_Unmodified_Since": BEFORE},
]  # fmt: skip
UNMET = [
    {"If_Match": '"v0"'}, {"If_Match": 'W/"v1"'}, {"If_Match": ""}, {"If_None_Match": "*"},
    {"If_None_Match": '"v1"'}, {"If_None_Match": 'W/"v1"'}, {"If_Unmodified_Since": BEFORE},
]  # fmt: skip


@pytest.mark.parametrize("given", MET)
def test_change_that_is_meant(given: dict[str, str]) -> None:
    """A change is done in the state that it names."""
    conditional.check_preconditions(headers(**given), NOW)


@pytest.mark.parametrize("given", UNMET)
def test_change_that_is_not_meant(given: dict[str, str]) -> None:
    """A change for another state is refused; only a strong ETag is a match."""
    with pytest.raises(PreconditionFailed):
        conditional.check_preconditions(headers(**given), NOW)


def test_change_of_nothing() -> None:
    """`If-None-Match: *` creates, `If-Match` needs something to be there."""
    conditional.check_preconditions(headers(If_None_Match="*"), None)
    conditional.check_preconditions(headers(If_Unmodified_Since=BEFORE), None)
    for wanted in ("*", '"v1"'):
        with pytest.raises(PreconditionFailed):
            conditional.check_preconditions(headers(If_Match=wanted), None)


def test_read_that_is_not_meant() -> None:
    """A read has If-Match, too."""
    with pytest.raises(PreconditionFailed):
        conditional.is_not_modified(headers(If_Match='"v0"'), NOW)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, True), ('"v1"', True), (THEN, True), ('W/"v1"', False), ('"v0"', False),
     (BEFORE, False), (AFTER, False), ("v1", False), ("", False), ('"v1", "v2"', False)],
)  # fmt: skip
def test_range_applies(given: str | None, expected: bool) -> None:
    """A range is served of exactly the state that it is meant for."""
    shown = {} if given is None else {"If_Range": given}
    assert conditional.range_applies(headers(**shown), NOW) is expected


@pytest.mark.parametrize(
    "text",
    ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "1 Jan 2024 1:1:1 -99999999999999999999",
     "Mon, 01 Jan 0000 00:00:00 GMT", "1 Jan 2024 1:1:1 +9999", "Mon, 31 Feb 2025 00:00:00 GMT"],
)  # fmt: skip
def test_dates_out_of_range(text: str) -> None:
    """A date beyond what a clock holds is none."""
    assert not conditional.is_not_modified(headers(If_Modified_Since=text), NOW)


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255)),
        st.from_regex(r"\A[A-Za-z]{3}, -?\d+ [A-Z][a-z]{2} -?\d+ \d+:\d+:\d+ [+-]?\w+\Z"),
    )
)
def test_any_text(text: str) -> None:
    """Whatever stands in these headers, there is an answer."""
    for name in ("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since"):
        try:
            conditional.is_not_modified({name: text}, NOW)
            conditional.check_preconditions({name: text}, NOW)
        except PreconditionFailed:
            continue
    conditional.range_applies({"If-Range": text}, NOW)

"""JSON of hostile code: an object by strict rules, or nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.storage.strict_json import loads_object_or_none


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"null", b"1", b'"x"', b"[]", b"[{}]", b"{", b'{"a":1,}', b"{'a':1}", b"{} {}",
        b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":"\xff"}',
        b'{"a":"\\ud800"}', b'{"\\udc00":1}', b'{"a":' + b"9" * 5000 + b"}", b'{"a":"\x01"}',
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", b'{"a":' * 100_000, b"[" * 500_000,
        b'{"a":1}'.decode().encode("utf-16"), b"\x00" * 100,
    ],
    ids=range(25),
)  # fmt: skip
def test_what_is_broken(data: bytes) -> None:
    """No object, no valid JSON, or what no JSON answer could hold."""
    assert loads_object_or_none(data) is None


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b'\xef\xbb\xbf{"a":1}\n', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\ud83d\\ude00\\u0000"}', {"a": "\U0001f600\x00"}),
        (b'{"a":' + b"9" * 4000 + b"}", {"a": 10**4000 - 1}),
        (b'{"a":' + b"[" * 198 + b"]" * 198 + b"}", None),
    ],
)
def test_what_is_fine(data: bytes, value: dict[str, object] | None) -> None:
    """Any object, any text, integers of any size, and nesting up to the limit."""
    assert loads_object_or_none(data) == (value or json.loads(data))


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.recursive(
            st.none() | st.booleans() | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=8,
        ),
        max_size=5,
    )
)  # fmt: skip
def test_what_json_says_comes_back(value: dict[str, object]) -> None:
    """Every object that strict JSON can tell is read as it was written, escaped or not."""
    for ascii_only in (True, False):
        assert loads_object_or_none(json.dumps(value, ensure_ascii=ascii_only).encode()) == value

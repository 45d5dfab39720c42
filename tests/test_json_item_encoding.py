"""Items of large objects become text again while they are parsed: the same JSON, little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from era_kernels.json_incremental import (
    LARGE_BYTES,
    EncodedJson,
    estimate_size,
    item_encoding,
    iterencode,
    iterparse_encoding_items,
)
from era_kernels.json_incremental.sizes import CHUNK_CHARS
from tests.test_json_incremental import result_of

NAMES = frozenset({"data", "metadata"})
STEPS = (1, 7, 60, 500)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.text("\\\"\u20ac\U0001f600a,]}[{:", max_size=50),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=30), st.dictionaries(st.text(), inner, max_size=30)
    ),
    max_leaves=60,
)
bundles = st.dictionaries(st.sampled_from(["a", "b", "c", "data"]), values)


def read(data: bytes) -> Any:
    return result_of(iterparse_encoding_items(data, 1_000_000, 100, NAMES))


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@given(
    st.fixed_dictionaries({"data": bundles}, optional={"metadata": bundles, "other": values}),
    st.sampled_from(STEPS),
    st.sampled_from([None, 1]),
)
@settings(max_examples=300, deadline=None)
def test_the_json_is_the_same(value: dict[str, Any], step: int, indent: int | None) -> None:
    """Whatever it is, and wherever in it a step ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_encoding, "STEP_BYTES", step)
        found = read(json.dumps(value, ensure_ascii=False, indent=indent).encode())
    assert b"".join(iterencode(found)) == compact(value)
    items = [item for name in NAMES for item in found.get(name, {}).values()]
    others = [found.get("other"), *items]
    assert not any(_has_encoded(one) for one in others if not isinstance(one, EncodedJson))


def _has_encoded(value: Any) -> bool:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return any(map(_has_encoded, inner))
    return isinstance(value, EncodedJson)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"data":{"a":[NaN,1e999,"\\ud800",[],{}]}}', '{"data":{"a":[null,null,"�",[],{}]}}'),
        (b'{"data":[[1,2],[3]],"metadata":5}', '{"data":[[1,2],[3]],"metadata":5}'),
        (b'[{"data":{"a":[1]}}]', '[{"data":{"a":[1]}}]'),
        (
            b'{"data":{"a":{"b":{"c":[{}, 1]},"d":2}}}',
            '{"data":{"a":{"b":{"c":[{},1]},"d":2}}}',
        ),
    ],
)
def test_hostile_shapes(
    data: bytes, expected: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and numbers are cleaned as ever; what has another shape stays as it is."""
    monkeypatch.setattr(item_encoding, "STEP_BYTES", step)
    assert b"".join(iterencode(read(data))).decode() == expected


@pytest.mark.parametrize("step", STEPS)
def test_broken_json_is_refused(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it ends."""
    monkeypatch.setattr(item_encoding, "STEP_BYTES", step)
    whole = b'{"data":{"a":[1,{"b":[[2],3]}]}}'
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            read(whole[:length])
    for end in (b"]", b"}", b","):
        with pytest.raises(ValueError):
            read(whole + end)


# Many values, which as values take 72 bytes and more each.
MANY = {
    "arrays": "[" + "[]," * 200_000 + "[]]",
    "objects": "[" + "{}," * 200_000 + "{}]",
    "in depth": '{"a":[{"b":[' + "[]," * 200_000 + "1]}]}",
    "members": "{" + ",".join(f'"{n}":[]' for n in range(50_000)) + "}",
    "shallow": "[" + '{"a":1},' * 100_000 + "1]",
}


@pytest.mark.parametrize("name", MANY)
def test_small_values_take_no_more_than_their_text(name: str) -> None:
    """While they are parsed, and afterwards."""
    data = f'{{"data":{{"x/json":{MANY[name]}}},"metadata":{{}}}}'.encode()
    tracemalloc.start()
    try:
        found = read(data)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    item = found["data"]["x/json"]
    assert isinstance(item, EncodedJson)
    assert max(map(len, iterencode(found))) <= 12 * CHUNK_CHARS
    assert b"".join(iterencode(found)) == data
    assert kept < 1.5 * len(data)
    assert most < 1.5 * len(data) + 16 * item_encoding.STEP_BYTES * 8


def test_encoded_json_is_written_in_steps() -> None:
    """However short it is: the interpreter's encoder, for what is small, does not know it."""
    assert estimate_size({"a": EncodedJson([b"[]"])}) > LARGE_BYTES

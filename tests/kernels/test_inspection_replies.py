"""Parsing of stacks and variables, fed with good, odd and hostile replies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.kernels import inspection_replies
from era_kernels.kernels.inspection_replies import (
    MAX_FRAMES,
    MAX_LINE_LENGTH,
    MAX_VALUES_LENGTH,
    MAX_VARIABLES,
)
from era_kernels.models import MISSING, StackFrame, Variable, Variables

FRAME = {"file": "<cell 1>", "line": 3, "function": "f", "source": "x"}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)
words = st.sampled_from(
    ["file", "line", "function", "source", "name", "type", "shape", "size", "value"]
)
items = st.dictionaries(words, anything)
answers = st.dictionaries(
    st.sampled_from(["frames", "variables", "truncated"]), anything | st.lists(items | anything)
)


def test_frames() -> None:
    """Frames are in the order of the reply."""
    inner = {**FRAME, "line": 4, "source": None}
    assert inspection_replies.parse_frames({"frames": [FRAME, inner]}) == [
        StackFrame("<cell 1>", 3, "f", "x"),
        StackFrame("<cell 1>", 4, "f", ""),
    ]


@pytest.mark.parametrize(
    "bad",
    [None, 5, {}, {**FRAME, "line": -1}, {**FRAME, "line": True}, {**FRAME, "file": 1},
     {**FRAME, "line": 1 << 63}, {**FRAME, "function": []}],
)  # fmt: skip
def test_bad_frames_are_left_out(bad: object) -> None:
    """A value that is no frame is left out."""
    assert inspection_replies.parse_frames({"frames": [bad, FRAME]}) == [
        StackFrame("<cell 1>", 3, "f", "x")
    ]


def test_frames_are_bounded() -> None:
    """The innermost frames are kept, and their texts cut."""
    many = [{**FRAME, "line": n, "source": "x" * 10_000} for n in range(1000)]
    found = inspection_replies.parse_frames({"frames": many})
    assert [frame.line for frame in found] == list(range(1000 - MAX_FRAMES, 1000))
    assert {len(frame.source) for frame in found} == {MAX_LINE_LENGTH}


@pytest.mark.parametrize("content", [{}, {"frames": None}, {"frames": {}}, {"frames": "f"}])
def test_no_frames(content: dict[str, Any]) -> None:
    """A reply without frames has none."""
    assert inspection_replies.parse_frames(content) == []


def test_variables() -> None:
    """A variable may have a shape, a size and a value; null is a value."""
    reported = [
        {"name": "a", "type": "int", "value": 5},
        {"name": "b", "type": "NoneType", "value": None},
        {"name": "c", "type": "ndarray", "shape": [3, 4]},
        {"name": "d", "type": "str", "size": 3, "value": "abc"},
        {"name": "e", "type": "E"},
    ]
    assert inspection_replies.parse_variables(
        {"variables": reported, "truncated": False}
    ) == Variables(
        (
            Variable("a", "int", value=5),
            Variable("b", "NoneType", value=None),
            Variable("c", "ndarray", shape=(3, 4)),
            Variable("d", "str", size=3, value="abc"),
            Variable("e", "E"),
        )
    )


@pytest.mark.parametrize(
    "field",
    [{"shape": [1, -1]}, {"shape": "3"}, {"shape": [1] * 33}, {"shape": [1.5]}, {"size": -1},
     {"size": True}, {"size": 1 << 63}],
)  # fmt: skip
def test_bad_fields_are_left_out(field: dict[str, Any]) -> None:
    """An invalid shape or size is left out."""
    reported = [{"name": "a", "type": "int", **field}]
    (found,) = inspection_replies.parse_variables({"variables": reported}).variables
    assert found == Variable("a", "int")


def test_too_many_variables() -> None:
    """Variables past a bound are left out, and the result says so."""
    reported = [{"name": f"v{n}", "type": "int"} for n in range(MAX_VARIABLES + 5)]
    found = inspection_replies.parse_variables({"variables": reported, "truncated": False})
    assert (len(found.variables), found.truncated) == (MAX_VARIABLES, True)
    reported = [{"name": f"v{n}", "type": "str", "value": "x" * 500_000} for n in range(10)]
    found = inspection_replies.parse_variables({"variables": reported, "truncated": False})
    assert (len(found.variables), found.truncated) == (MAX_VALUES_LENGTH // 500_002, True)


@given(answers)
def test_nothing_breaks_it(content: dict[str, Any]) -> None:
    """Whatever a kernel replies, the result is valid JSON and UTF-8."""
    for frame in inspection_replies.parse_frames(content):
        f"{frame.file}{frame.function}{frame.source}".encode()
        assert 0 <= frame.line < 1 << 63
    for variable in inspection_replies.parse_variables(content).variables:
        f"{variable.name}{variable.type}".encode()
        if variable.value is not MISSING:
            json.dumps(variable.value, ensure_ascii=False, allow_nan=False).encode()

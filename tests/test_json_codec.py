"""Parsed JSON is strict, encoded JSON is compact and always valid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from era_kernels import json_codec
from era_kernels.errors import InvalidJson, InvalidRequest, TooLarge
from era_kernels.json_incremental import iterparse_strictly
from tests.test_json_incremental import result_of

# Makes a body a large one, which is parsed in steps.
LONG_PADDING = b" " * json_codec.LARGE_BYTES + b"\n"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES))
def test_round_trip(value: dict[str, object]) -> None:
    """What is encoded is parsed as the same value."""
    assert json_codec.loads_object(json_codec.dumps(value)) == value


@pytest.mark.parametrize("body", [b"", b" \r\n\t "])
def test_empty(body: bytes) -> None:
    """An empty body is the empty object."""
    assert json_codec.loads_object(body) == {}


MISTAKES = [
    b"{", b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{"a":1} x', b'{"a":"\n"}', b'{"a":"\xff"}',
    b'{"a":NaN}', b'{"a":Infinity}', b'{"a":[1,2,Infinity]}', b'{"a":-Infinity}', b'{"a":1e999}',
    b'{"a":[-1e400,1]}',
    b'{"a":"\\ud800"}', b'{"\\uDFFF":1}', b'{"a":["\\ud83d\\u0041"]}', b"\x00", b'{"a":+1}',
    b'{"a":' + b"9" * 5000 + b"}", b"{}{}", b'{"a":[1 2]}', b'{"a" 1}', b'{"a":1 "b":2}',
    b"{1:2}",
    b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\', b'{"a":"x', b'{"a":tru}', b'{"a":[1}',
    b'{"a":.5}',
    b'{"a":-}', b'{"a":1.}', b'{"a":1e}', '{"é":"ü" ö}'.encode(), b'{"a":"\xed\xa0\x80"}',
]  # fmt: skip


@pytest.mark.parametrize("body", MISTAKES)
async def test_malformed(body: bytes) -> None:
    """What is not JSON, or is no number or no character, is INVALID_JSON.

    A body that is parsed in steps is refused in the very words for a small one.
    """
    with pytest.raises(InvalidJson):
        json_codec.loads_object(body)
    with pytest.raises(InvalidJson) as small:
        json_codec.loads_object(b" \n" + body)
    with pytest.raises(InvalidJson) as large:
        await json_codec.loads_object_async(LONG_PADDING + body)
    assert (large.value.message, large.value.hint) == (small.value.message, small.value.hint)


def loads_in_steps(body: bytes) -> Any:
    """What the parser for large bodies makes of any body."""
    return result_of(iterparse_strictly(body, json_codec.MAX_VALUES, json_codec.MAX_DEPTH))


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_large_bodies(value: object, ascii_only: bool, indent: int | None) -> None:
    """A body that is parsed in steps has the same value."""
    text = json.dumps({"a": value}, ensure_ascii=ascii_only, indent=indent)
    assert loads_in_steps(b"\xef\xbb\xbf" + text.encode()) == {"a": value}


@given(st.text('{}[]",:\\u0d8a1e.- \n\tnultrefasNI+x\x01é'))
@settings(max_examples=500)
def test_any_large_body(text: str) -> None:
    """Whatever it is: a body in steps is what a small one is, by value or by refusal."""

    def outcome(parse: Callable[[bytes], Any]) -> object:
        try:
            return parse(b'{"a":' + text.encode() + b"}")
        except InvalidJson as error:
            return error.message

    assert outcome(loads_in_steps) == outcome(json_codec.loads_object)


@pytest.mark.parametrize("body", [b" " * 10**6, b"\n" * 10**6])
async def test_large_and_empty(body: bytes) -> None:
    """A blank body is the empty object also when it is large; as an array it is none."""
    assert await json_codec.loads_object_async(body) == {}
    with pytest.raises(InvalidRequest):
        await json_codec.loads_array_async(body)


MOST = 20_000  # names and items in these bodies; the real bound is tried through a server
NAMES = LONG_PADDING + b",".join(b'"%d":1' % n for n in range(MOST // 2))


@pytest.mark.parametrize(
    "inside",
    [
        b"[%b0]" % (b"0," * (MOST // 2 - 3)), b"[%b{}]" % (b"[]," * (MOST // 2 - 3)),
        b'[%b""]' % (b'"",' * (MOST // 2 - 3)),
        b"[%b[]]" % (b"[0]," * (MOST // 4 - 2) + b"0,"),
        b"[%b0]" % (b" [ ] ,\n" * (MOST // 2 - 3)),
        b"[%b0]" % (b'{"a":1},' * (MOST // 4 - 2) + b"0,"),
    ],
    ids=range(6),
)  # fmt: skip
async def test_names_and_items_are_counted(monkeypatch: pytest.MonkeyPatch, inside: bytes) -> None:
    """As many of both together as may be are taken, and not one more."""
    monkeypatch.setattr(json_codec, "MAX_VALUES", MOST)
    body = b'{"a":%b,%b}' % (inside, NAMES)
    assert len(await json_codec.loads_object_async(body)) == MOST // 2 + 1
    with pytest.raises(TooLarge, match=str(MOST)):
        await json_codec.loads_object_async(body[:-1] + b',"b":[1]}')


@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
async def test_depth_of_a_large_body(pair: tuple[bytes, bytes]) -> None:
    """The levels of a body that is parsed in steps are counted as those of a small one."""
    for depth in (json_codec.MAX_DEPTH - 1, json_codec.MAX_DEPTH):
        body = b'{"a":%b1%b%b}' % (pair[0] * depth, pair[1] * depth, LONG_PADDING)
        if depth < json_codec.MAX_DEPTH:
            await json_codec.loads_object_async(body)
            continue
        with pytest.raises(TooLarge):
            await json_codec.loads_object_async(body)


async def test_the_last_of_large_duplicates_counts() -> None:
    """Names that occur twice, near to each other and far apart."""
    body = b'{"a":1,"a":2,"b":[%b0],%b"b":3,"c":{"d":1,"d":[4]}}' % (
        b"1," * 9999,
        b'"a":5,' * 60_000,
    )
    assert await json_codec.loads_object_async(body) == {"a": 5, "b": 3, "c": {"d": [4]}}


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"1", b"true"])
def test_not_an_object(body: bytes) -> None:
    """JSON that is no object is a wrong request, not wrong JSON."""
    with pytest.raises(InvalidRequest) as caught:
        json_codec.loads_object(body)
    assert caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize("depth", [json_codec.MAX_DEPTH, 1000, 100_000, 5_000_000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting(depth: int, pair: tuple[bytes, bytes]) -> None:
    """Nesting beyond the bound is refused, whatever the interpreter would do with it."""
    with pytest.raises(TooLarge):
        json_codec.loads_object(b'{"a":' + pair[0] * depth + b"1" + pair[1] * depth + b"}")


def test_nesting_within_the_bound() -> None:
    """What is accepted can also be written again."""
    inside = json_codec.MAX_DEPTH - 1
    body = b'{"a":' + b"[" * inside + b"]" * inside + b"}"
    assert json_codec.dumps(json_codec.loads_object(body)) == body


def test_many_brackets_are_not_depth() -> None:
    """A long flat list and brackets in strings are not deep."""
    body = json.dumps({"a": [[] for _ in range(5000)], "b": "[" * 5000}).encode()
    assert len(json_codec.loads_object(body)["a"]) == 5000


def test_leniency() -> None:
    """The last duplicate wins, a byte order mark is skipped, big integers and pairs survive."""
    body = b'\xef\xbb\xbf{"a":1,"a":2,"b":%d,"c":"\\ud83d\\ude00","d":"\\\\ud800"}' % 10**300
    assert json_codec.loads_object(body) == {"a": 2, "b": 10**300, "c": "😀", "d": "\\ud800"}


def test_mistakes_are_located() -> None:
    """The message says where the mistake is, and repeats nothing of the body."""
    with pytest.raises(InvalidJson) as caught:
        json_codec.loads_object(b'{"secret": tomato}')
    assert "line 1, column 12" in caught.value.message
    assert "tomato" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        (b'{"code": "a\nb"}', "Invalid control character at line 1, column 12.", r"\n"),
        (b'{"code": "a', "Unterminated string starting at line 1, column 10.", "JSON object"),
        (b"code=1", "Expecting value at line 1, column 1.", "JSON object"),
        (b'{"code": "\xff"}', "it is not UTF-8.", "JSON object"),
    ],
)
def test_mistakes_have_a_hint(body: bytes, message: str, hint: str) -> None:
    """The message names the place once, and the hint says what to send instead."""
    with pytest.raises(InvalidJson) as caught:
        json_codec.loads_object(body)
    assert caught.value.message == f"The body is not valid JSON: {message}"
    assert hint in str(caught.value.hint)


def test_out_is_compact_utf8() -> None:
    """No spaces, no escapes of what UTF-8 can say."""
    assert json_codec.dumps({"id": "é", "n": [1, 2.5]}) == '{"id":"é","n":[1,2.5]}'.encode()


def test_out_is_repaired() -> None:
    """NaN becomes null and a lone surrogate U+FFFD, so that clients can parse every answer."""
    value = {"x": [float("nan"), float("inf"), {"y": "a\ud800b"}], "t": (1, float("-inf"))}
    assert json.loads(json_codec.dumps(value)) == {"x": [None, None, {"y": "a�b"}], "t": [1, None]}


def test_out_may_be_deep() -> None:
    """What is nested deeper than bodies may be is encoded all the same."""
    value: dict[str, object] = {}
    for _ in range(2 * json_codec.MAX_DEPTH):
        value = {"x": value}
    assert json.loads(json_codec.dumps(value)) == value


@pytest.mark.parametrize("items", [[], [{}], [{"a": "\ud800"}, {"b": [1.5, None]}]])
async def test_an_array_is_encoded_item_by_item(items: list[dict[str, object]]) -> None:
    """The result is the array of the items' own encodings, and its length."""
    text, count = await json_codec.dumps_array(iter(items))
    assert text == b"[" + b",".join(map(json_codec.dumps, items)) + b"]"
    assert count == len(json.loads(text)) == len(items)


async def test_other_tasks_run_while_a_list_is_encoded() -> None:
    """However long the list is, the loop runs other tasks in between."""
    iterations = 0

    async def other() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await json_codec.dumps_array({"n": n, "text": "x" * 1000} for n in range(20_000))
    task.cancel()
    assert iterations > 1


@pytest.mark.parametrize("padding", [b"", LONG_PADDING], ids=["short", "long"])
async def test_numbers_as_text(padding: bytes) -> None:
    """Numbers can be had as they stand in the body, however long that is."""
    body = b'{"env":{"a":1.50,"b":-0,"c":1E5,"d":true,"e":1.5e999}%b}' % padding
    written = await json_codec.loads_numbers_as_text(body)
    expected = {"a": "1.50", "b": "-0", "c": "1E5", "d": True, "e": "1.5e999"}
    assert written["env"] == expected


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
def test_none_stands_for_what_is_broken(data: bytes) -> None:
    """None stands for no object, no valid JSON, and what no JSON answer could hold."""
    assert json_codec.loads_object_or_none(data) is None


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
def test_objects_of_hostile_code(data: bytes, value: dict[str, object] | None) -> None:
    """Any object is read, with any text, integers of any size, and nesting up to the limit."""
    assert json_codec.loads_object_or_none(data) == (value or json.loads(data))


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
def test_objects_of_hostile_code_come_back(value: dict[str, object]) -> None:
    """Every object that strict JSON can hold is read as it was written, escaped or not."""
    for ascii_only in (True, False):
        assert (
            json_codec.loads_object_or_none(json.dumps(value, ensure_ascii=ascii_only).encode())
            == value
        )


def test_what_is_quick_to_parse() -> None:
    """A long text is; a short body of very many values is parsed in steps."""
    assert json_codec.is_quick_to_parse(b"[" * 16_000)
    assert json_codec.is_quick_to_parse(b"x" * 250_000)
    assert not json_codec.is_quick_to_parse(b"[]," * 9_000)
    assert not json_codec.is_quick_to_parse(b"x" * 300_000)


async def test_an_item_of_very_many_values() -> None:
    """It is encoded as those beside it, in steps."""
    items = [{"a": [[]] * 9_000}, {"b": "é"}]
    listed, count = await json_codec.dumps_array(items)
    assert (json.loads(listed), count) == (items, 2)

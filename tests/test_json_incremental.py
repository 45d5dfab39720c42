"""Long JSON is read and written as the interpreter does, in short steps, whatever comes."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from era_kernels import json_codec, json_incremental
from era_kernels.json_incremental import (
    CHUNK_CHARS,
    LONG_TEXT_BYTES,
    EncodedJson,
    Utf8Text,
    estimate_size,
    iterencode,
    iterparse,
    iterparse_strictly,
)
from era_kernels.json_incremental.parsing import MAX_NAME_BYTES, Parser

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.text("\\\"\u20ac\U0001f600a\n\x7f", min_size=1).map(lambda t: t * 9000),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


def result_of(steps: Iterator[None]) -> Any:
    """What a parser returns after all of its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def read(data: bytes | bytearray, max_values: int = 1_000_000, depth: int = 100) -> Any:
    return result_of(iterparse(data, max_values, depth))


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_json_is_read(value: Any, ascii_only: bool, indent: int | None) -> None:
    """Any value, however it was written."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read(text.encode()) == value
    assert read(bytearray(b" " + text.encode() + b"\n")) == value


@given(values)
def test_json_is_written(value: Any) -> None:
    """Compact, to the byte what the interpreter writes, in short pieces."""
    found = [*iterencode(value)]
    assert b"".join(found).decode() == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert max(map(len, found)) <= 12 * CHUNK_CHARS


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: [1, {"a": part}]])
def test_what_is_json_already_is_written_as_it_is(wrap: Callable[[Any], Any]) -> None:
    """Encoded JSON stands in the place of its value, also in answers of any size."""
    value = {"a": [1, None, "\u00e9\U0001f600"]}
    encoded = EncodedJson(list(iterencode(value)))
    assert json.loads(b"".join(iterencode(wrap(encoded)))) == wrap(value)
    assert json.loads(json_codec.dumps({"results": wrap(encoded)})) == {"results": wrap(value)}


def test_numbers_that_json_lacks_are_written_as_null() -> None:
    """Alone and among others."""
    nan, infinite = float("nan"), float("inf")
    assert b"".join(iterencode([nan, 1, -infinite, {"a": infinite}])) == b'[null,1,null,{"a":null}]'
    assert b"".join(iterencode([nan, 1.5, True, None])) == b"[null,1.5,true,null]"


@given(st.text('{}[]",:\\u0d8a1e.- \n\tnultrefasNI+x\x01'))
@settings(max_examples=500)
def test_any_text_is_read_as_the_interpreter_does(text: str) -> None:
    """What is no JSON is refused, what is has the same value; but no infinities, no NaN."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    try:
        expected = decoder.decode(text)
    except ValueError:
        with pytest.raises(ValueError):
            read(text.encode())
    else:
        found = read(text.encode())
        shown = json.dumps(expected).replace("-Infinity", "null").replace("Infinity", "null")
        assert json.dumps(found) == shown or "\\ud8" in shown.lower() or "\\ude" in shown.lower()


@given(st.binary(max_size=50))
def test_any_bytes_are_read(data: bytes) -> None:
    """Bytes that are no UTF-8 become U+FFFD, as decoding them does."""
    clean = bytes(byte for byte in data if byte >= 0x20 and byte not in b'"\\')
    assert read(b'"' + clean + b'"') == clean.decode("utf-8", "replace")


@pytest.mark.parametrize("shift", range(8))
@pytest.mark.parametrize(
    "piece", ["\\ud83d\\ude00", "\u20ac", "\U0001f600", "\\\\", '\\"', "\\u20ac"]
)
def test_cuts_fall_between_characters(piece: str, shift: int) -> None:
    """A long string is read in pieces, and no character suffers from that."""
    text = '"' + "x" * shift + piece * 20_000 + '"'
    assert read(text.encode()) == json.loads(text)


def test_halves_of_pairs_are_replaced() -> None:
    """Lone surrogates, also at a cut and at the end, are no characters."""
    half = "\\ud83d"
    text = '"' + "x" * (CHUNK_CHARS - 6) + half + "y" * CHUNK_CHARS + half + '"'
    assert read(text.encode()) == "x" * (CHUNK_CHARS - 6) + "\ufffd" + "y" * CHUNK_CHARS + "\ufffd"
    backslash = '"' + "x" * (CHUNK_CHARS - 8) + "\\\\ud83dyy" + '"'
    assert read(backslash.encode()) == json.loads(backslash)


@pytest.mark.parametrize(
    "text",
    ['"abc', '"' + "x" * 100_000, "[1,", "[1 2]", "[" * 101 + "]" * 101, "1" * 6000, "[1e5,,2]",
     '{"a" 1}', '{"a":1,}', "[1],", "", "  ", '{1: 2}', "[]]", "[1}", '["a\n"]'],
)  # fmt: skip
def test_what_is_no_json_is_refused(text: str) -> None:
    """Torn, nested too deeply, or wrong."""
    with pytest.raises(ValueError):
        read(text.encode())


def test_long_names_are_refused() -> None:
    """A name is made and hashed in one step, so its length is bounded, with escapes or without."""
    for letter, length in (("x", 1), ("\\n", 2)):
        long, too_long = (letter * (size // length) for size in (MAX_NAME_BYTES - 2, 1 << 21))
        assert list(read(b'{"%b": 1}' % long.encode())) == [json.loads(f'"{long}"')]
        with pytest.raises(ValueError, match="Too long property name"):
            read(b'[{"%b": 1}]' % too_long.encode())


@pytest.mark.parametrize("levels", range(1, 24))
def test_levels_are_counted(levels: int) -> None:
    """Values are read up to the bound and no further, also where many are parsed at once."""
    opening = "".join('[{"a":' if n % 2 else "[" for n in range(levels))
    closing = "".join("}]" if n % 2 else "]" for n in reversed(range(levels)))
    text = json.dumps([json.loads(f"{opening}1{closing}")] * 200).encode()
    deep = 1 + opening.count("[") + opening.count("{")
    assert read(text, depth=deep) == json.loads(text)
    with pytest.raises(ValueError, match="too deeply"):
        read(text, depth=deep - 1)


def test_values_are_counted() -> None:
    """Past the bound reading stops: in flat arrays, nested ones and objects."""
    assert read(b"[" + b"1," * 99 + b"1]", 101) == [1] * 100
    for bomb in (b"[" + b"1," * 100 + b"1]", b"[" + b"[]," * 100 + b"1]"):
        with pytest.raises(ValueError, match="too many values"):
            read(bomb, 101)


def test_numbers_that_json_lacks_are_null() -> None:
    """NaN and the infinities, also those that only a float has no room for."""
    assert read(b'[NaN, Infinity, {"a": 1e999}, 1e999, -1e999, 2]') == [
        None, None, {"a": None}, None, None, 2,
    ]  # fmt: skip


BIG: dict[str, Any] = {
    "a text": "x\u20ac\n" * 1_000_000,
    "a flat list": [1.5] * 500_000,
    "a deep list": [[]] * 200_000,
    "objects": [{"a": 1}] * 100_000,
    "spaces": None,
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keeps the collector from scanning the objects of this process, as in a server."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", [*BIG])
def test_no_step_is_long(name: str) -> None:
    """Whatever is long about a value: no single step holds the lock for long."""
    text = json.dumps(BIG[name]).encode() if BIG[name] else b" " * 5_000_000 + b"1"
    longest = before = 0.0
    steps = iterparse(text, 1_000_000, 100)
    before = time.thread_time()
    for _ in steps:
        longest, before = max(longest, time.thread_time() - before), time.thread_time()
    before = time.thread_time()
    for _ in iterencode(BIG[name]):
        longest, before = max(longest, time.thread_time() - before), time.thread_time()
    assert longest < 0.1  # seconds; some 0.5 ms on a quiet host


class CountedObject(dict[str, Any]):
    """An object that counts how many of its kind were freed."""

    freed = 0

    def __del__(self) -> None:
        CountedObject.freed += 1


class CountedParser(Parser):
    """A parser whose objects are counted."""

    def make_object(self) -> dict[str, Any]:
        return CountedObject()


@pytest.mark.parametrize("end", [b"!", b"[" * 101, b"]!"], ids=["mistake", "depth", "extra"])
def test_what_a_mistake_leaves_is_freed_in_steps(end: bytes) -> None:
    """A mistake at the end of a large text: what was parsed by then does not go at once."""
    data = b"[%b%b" % (rb'{"a":"\ud800"},' * 5000 + b"1", end)  # such objects come one by one
    steps, before, most = CountedParser(data, 100_000, 100).parse(), CountedObject.freed, 0
    with pytest.raises(ValueError):
        while True:
            earlier = CountedObject.freed
            try:
                next(steps)
            finally:
                most = max(most, CountedObject.freed - earlier)
    assert CountedObject.freed - before == 5000
    assert most <= 256


def test_long_integers_are_written_a_few_at_a_time() -> None:
    """To write an integer of 4 000 digits takes as long as to write hundreds of small ones."""
    value = [10**3999] * 128
    assert json.loads(b"".join(iterencode(value))) == value
    assert max(map(len, iterencode(value))) < 100_000


@pytest.mark.usefixtures("uncollected")
def test_estimate_size() -> None:
    """A size is estimated by text and number of values, and no further than needed."""
    assert estimate_size("x" * 1000) == 1000 + json_incremental.VALUE_OVERHEAD_BYTES
    assert estimate_size({"a": [1, 2]}) == 1 + 4 * json_incremental.VALUE_OVERHEAD_BYTES
    before = time.thread_time()
    for value in BIG.values():
        assert value is None or estimate_size({"data": [value]}) > json_incremental.LARGE_BYTES
    assert time.thread_time() - before < 0.1


LONG = "x" * LONG_TEXT_BYTES


@pytest.mark.parametrize(
    "text",
    [LONG, LONG + "\U0001f600", "\U0001f600" + LONG, "\u20ac\n" * LONG_TEXT_BYTES, "\ud800" + LONG],
    ids=["ascii", "emoji at the end", "emoji at the begin", "escapes", "half a pair"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_long_texts_are_kept_as_utf_8(text: str, ascii_only: bool) -> None:
    """Anywhere in the value; they are written as strings are."""
    data = json.dumps({"a": [text]}, ensure_ascii=ascii_only).encode("utf-8", "replace")
    valid = text.replace("\ud800", "\ufffd" if ascii_only else "?")
    parsed = read(data)
    [found] = parsed["a"]
    assert isinstance(found, Utf8Text)
    assert found == valid
    assert len(found) == len(valid.encode())
    written = b"".join(iterencode(parsed))
    assert written == json.dumps({"a": [valid]}, ensure_ascii=False, separators=(",", ":")).encode()
    assert estimate_size(parsed) > LONG_TEXT_BYTES
    assert max(map(len, iterencode(parsed))) <= 12 * CHUNK_CHARS


def test_what_is_no_long_text() -> None:
    """Escapes that stand for little, names, and bodies, which are bounded."""
    assert type(read(json.dumps("\x7f\x00" * (LONG_TEXT_BYTES // 6)).encode())) is str
    name = LONG[: MAX_NAME_BYTES - 2]
    assert read(json.dumps({name: 1}).encode()) == {name: 1}
    assert result_of(iterparse_strictly(json.dumps([LONG]).encode(), 10, 10)) == [LONG]

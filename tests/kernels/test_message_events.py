"""The table from messages to events, fed with good, odd and hostile contents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.kernels import message_events
from era_kernels.kernels.message_events import (
    ERROR_CUT,
    FENCE_MIME_TYPE,
    MAX_DEPTH,
    MAX_ERROR_LENGTH,
    MAX_TRACEBACK_LINES,
    Reply,
    error_text,
    fence_nonce,
    parse_reply,
    remove_colours,
    to_event,
)
from era_kernels.models import (
    ClearOutput,
    Display,
    ExceptionInfo,
    InputRequest,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
    event_to_json,
)

KINDS = [
    "stream", "execute_result", "display_data", "update_display_data", "clear_output",
    "input_request",
]  # fmt: skip

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)
contents = st.dictionaries(
    st.sampled_from(
        ["name", "text", "data", "metadata", "transient", "wait", "era", "status", "prompt"]
    ),
    anything | st.sampled_from(["stdout", "error", {"exit_code": 1, "exception": {}}]),
)


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("stream", {"name": "stdout", "text": "é\0\n"}, Stdout("é\0\n")),
        ("stream", {"name": "stderr", "text": ""}, Stderr("")),
        ("execute_result", {"data": {"text/plain": "3"}}, Result({"text/plain": "3"})),
        (
            "display_data",
            {"data": {"a/b": 1}, "metadata": {"w": 2}, "transient": {"display_id": "d"}},
            Display({"a/b": 1}, {"w": 2}, "d"),
        ),
        (
            "update_display_data",
            {"data": {}, "metadata": {}, "transient": {"display_id": "d"}},
            UpdateDisplay({}, {}, "d"),
        ),
        ("clear_output", {"wait": True}, ClearOutput(True)),
        ("clear_output", {}, ClearOutput(False)),
        ("input_request", {"prompt": "? ", "key": "k"}, InputRequest("? ", False, "k")),
        (
            "input_request",
            {"prompt": "x" * 10_000, "password": True, "key": ""},
            InputRequest("x" * 8192, True),
        ),
        ("status", {"execution_state": "idle"}, None),
        ("error", {"ename": "E", "evalue": "v", "traceback": []}, None),
        ("no_such_type", {}, None),
    ],
)
def test_each_type_has_its_event(kind: str, content: dict[str, Any], expected: object) -> None:
    """A message of a known type and shape is its event, all else is none."""
    assert to_event(kind, content) == expected


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {}),
        ("stream", {"name": "stdin", "text": "x"}),
        ("stream", {"name": [], "text": "x"}),
        ("stream", {"name": "stdout", "text": ["x"]}),
        ("execute_result", {"data": "text"}),
        ("execute_result", {"data": {}, "metadata": 5}),
        ("display_data", {"data": None}),
        ("input_request", {"prompt": "? "}),
        ("input_request", {"prompt": 5, "key": "k"}),
        ("input_request", {"prompt": "", "key": "k" * 65}),
    ],
)
def test_wrong_shape_is_none(kind: str, content: dict[str, Any]) -> None:
    """A message that is not what its type promises is none, without an exception."""
    assert to_event(kind, content) is None
    assert message_events.is_output(kind)


def test_values_become_valid_json() -> None:
    """Numbers that JSON lacks become null, halves of surrogate pairs U+FFFD."""
    content = {"data": {"a": [float("nan"), 1e999, 2.5, True], "\ud800b": {"\udc00": "x\udfff"}}}
    assert to_event("execute_result", content) == Result(
        {"a": [None, None, 2.5, True], "\ufffdb": {"\ufffd": "x\ufffd"}}
    )
    assert to_event("stream", {"name": "stdout", "text": "a\ud83d"}) == Stdout("a\ufffd")


def test_nesting_is_bounded() -> None:
    """A bundle may nest as deep as any honest one, and not so deep that writing it would fail."""

    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return {"data": {"application/json": value}}

    assert to_event("display_data", nested(MAX_DEPTH)) is not None
    assert to_event("display_data", nested(MAX_DEPTH + 1)) is None
    assert to_event("display_data", nested(900)) is None


@pytest.mark.parametrize("wrong", [5, ["d"], None, "d" * 2000])
def test_wrong_display_id_is_ignored(wrong: object) -> None:
    """A display without a proper id is still shown."""
    content = {"data": {}, "transient": {"display_id": wrong}}
    assert to_event("display_data", content) == Display({}, {}, None)
    assert to_event("display_data", {"data": {}, "transient": wrong}) == Display({}, {}, None)


def test_fence_has_a_nonce_and_is_no_output() -> None:
    """The fence is known by its MIME type; it never shows, whatever its nonce is."""
    good = {"data": {FENCE_MIME_TYPE: {"nonce": "abc"}}}
    assert fence_nonce("display_data", good) == "abc"
    assert to_event("display_data", good) is None
    for body in ({}, {"nonce": 5}, "abc", None):
        assert fence_nonce("display_data", {"data": {FENCE_MIME_TYPE: body}}) == ""
        assert to_event("display_data", {"data": {FENCE_MIME_TYPE: body}}) is None
    assert fence_nonce("stream", good) is None
    assert fence_nonce("display_data", {"data": [FENCE_MIME_TYPE]}) is None


def test_reply_tells_code_and_exception() -> None:
    """The `era` object of a reply is the truth about a run, whatever its status says."""
    exception = {"name": "ValueError", "value": "no", "traceback": ["a", "b"]}
    content = {"status": "ok", "era": {"exit_code": 1, "exception": exception}}
    assert parse_reply(content) == Reply(1, ExceptionInfo("ValueError", "no", ["a", "b"]))
    assert parse_reply({"era": {"exit_code": 300, "exception": None}}) == Reply(44)


def test_reply_of_a_kernel_without_era_is_its_status() -> None:
    """The status of other kernels' replies counts."""
    assert parse_reply({"status": "ok"}) == Reply(0)
    failed = {"status": "error", "ename": "E", "evalue": "v", "traceback": ["t"]}
    assert parse_reply(failed) == Reply(1, ExceptionInfo("E", "v", ["t"]))
    assert parse_reply({"status": "error"}) == Reply(1)
    assert parse_reply({"status": "aborted"}) == Reply(1, is_refusal=True)


@pytest.mark.parametrize("content", [{}, {"status": "no"}, {"era": {"exit_code": "0"}}])
def test_reply_of_wrong_shape_is_none(content: dict[str, Any]) -> None:
    """A reply without an outcome is none."""
    assert parse_reply(content) is None


@pytest.mark.parametrize(
    "exception",
    [
        5,
        {},
        {"name": "E", "value": 1, "traceback": []},
        {"name": "E", "value": "", "traceback": [1]},
    ],
)
def test_exception_of_wrong_shape_leaves_the_code(exception: object) -> None:
    """A broken exception does not hide the exit code."""
    assert parse_reply({"era": {"exit_code": 1, "exception": exception}}) == Reply(1)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, None),
        ("NameError in main.py:5", "NameError in main.py:5"),
        ("", ""),
        ("x" * 10**6, "x" * message_events.MAX_FAULT_LENGTH),
        ("a\ud800b\n<x>", "a?b??x?"),
        ("\udc00" * 10**6, "?" * message_events.MAX_FAULT_LENGTH),
        (5, None),
        (True, None),
        (["x"], None),
        ({"text": "x"}, None),
    ],
)
def test_fault_is_a_bounded_text(fault: object, expected: str | None) -> None:
    """A fault of the kernel is text of a bounded length; what is none hides no exit code."""
    found = parse_reply({"era": {"exit_code": 1, "exception": None, "fault": fault}})
    assert found == Reply(1, None, expected)
    assert parse_reply({"status": "ok", "fault": fault}) == Reply(0)


def test_exception_is_cut() -> None:
    """An exception has a bounded size; stderr has all of it."""
    exception = {"name": "E", "value": "v" * 1_000_000, "traceback": ["l" * 1000] * 1000}
    found = parse_reply({"era": {"exit_code": 1, "exception": exception}})
    assert found is not None
    assert found.exception is not None
    assert len(found.exception.value) == message_events.MAX_EXCEPTION_LENGTH
    assert sum(map(len, found.exception.traceback)) <= message_events.MAX_TRACEBACK_LENGTH


@given(st.sampled_from(KINDS), contents)
def test_no_content_raises_and_every_event_can_be_written(
    kind: str, content: dict[str, Any]
) -> None:
    """Whatever a kernel sends, an event comes out that is valid JSON in UTF-8, or none."""
    found = to_event(kind, content)
    fence_nonce(kind, content)
    parse_reply(content)
    if found is not None:
        json.dumps(event_to_json(found), allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[1;31mred\x1b[0m, \x1b[38;5;10mgreen\x1b[m", "red, green"),
        ("\x1b[38:2::1:2:3mtrue colour\x1b[K", "true colour"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\x1b(Bcharset\x1b7\x1b=", "charset"),
        ("\x1b[?25lcursor\x1b[2 q", "cursor"),
        ("no [0m escape", "no [0m escape"),
        ("at the end\x1b", "at the end\x1b"),
    ],
)
def test_colours_are_removed(text: str, plain: str) -> None:
    """Escape sequences of terminals are removed, and nothing else."""
    assert remove_colours(text) == plain


def test_removing_colours_takes_linear_time() -> None:
    """A text that only begins escape sequences costs no more than one that ends them."""
    for part in ("\x1b]", "\x1b[", "\x1b[1", "\x1b[ ", "\x1bP"):
        started_at = time.monotonic()
        remove_colours(part * 200_000)
        assert time.monotonic() - started_at < 5


ESCAPES = {
    "colours": "\x1b[0m",
    "sequences that do not end": "\x1b[",
    "strings that do not end": "\x1b]",
    "strings": "\x1b]x\x1b\\",
    "nothing else": "\x1b",
    "parameters": "\x1b[" + "0;" * 500,
    "intermediates": "\x1b[0   ",
    "no sequences": "\x1b   ",
}
HUGE = 40_000_000


def one_line(text: str) -> dict[str, Any]:
    return {"traceback": [text * (HUGE // len(text))]}


def many_lines(text: str, count: int = 300_000) -> dict[str, Any]:
    return {"traceback": [text] * count}


# Each is made when it is tried: all together take a gigabyte.
HOSTILE_ERRORS: dict[str, Callable[[], dict[str, Any]]] = {
    "a line": partial(one_line, "a"),
    "a line of other characters": partial(one_line, "é"),
    "a line of surrogates": partial(one_line, "\ud800"),
    "an empty line": partial(one_line, " "),
    "lines": partial(many_lines, "é", 1_000_000),
    "empty lines": partial(many_lines, "", 1_000_000),
    "a name": lambda: {"ename": "é" * HUGE},
    "a text": lambda: {"evalue": "é" * HUGE},
    **{name: partial(one_line, text) for name, text in ESCAPES.items()},
    **{f"lines of {name}": partial(many_lines, text) for name, text in ESCAPES.items()},
}


@pytest.mark.parametrize("changes", HOSTILE_ERRORS.values(), ids=HOSTILE_ERRORS)
def test_hostile_error_takes_no_time(changes: Callable[[], dict[str, Any]]) -> None:
    """However large an error is, the loop is stopped only for the bounded part that is kept."""
    content = {"ename": "E", "evalue": "v", "traceback": [], "status": "error", **changes()}
    started_at = time.process_time()
    text, reply = error_text(content), parse_reply(content)
    assert time.process_time() - started_at < 0.15
    assert text is not None
    assert len(text) <= MAX_ERROR_LENGTH + len(ERROR_CUT) + 1
    assert reply is not None
    assert reply.exception is None or len(reply.exception.traceback) <= MAX_TRACEBACK_LINES


@pytest.mark.parametrize(
    ("traceback", "is_cut"),
    [
        (["a" * MAX_ERROR_LENGTH], False),
        (["a" * (MAX_ERROR_LENGTH - 2), "b"], False),
        (["a" * (MAX_ERROR_LENGTH - 1), "b"], True),
        (["a" * MAX_ERROR_LENGTH, ""], True),
        (["a" * (MAX_ERROR_LENGTH + 1)], True),
        (["a"] * MAX_TRACEBACK_LINES, False),
        (["a"] * (MAX_TRACEBACK_LINES + 1), True),
    ],
)
def test_error_that_is_cut_says_so(traceback: list[str], is_cut: bool) -> None:
    """An error up to the bound is whole; of a larger one the beginning is kept, and it says so."""
    text = error_text({"ename": "E", "evalue": "v", "traceback": traceback})
    whole = "\n".join(traceback)
    if is_cut:
        assert text is not None
        kept = text.removesuffix(f"\n{ERROR_CUT}")
        assert kept != text
        assert whole.startswith(kept)
    else:
        assert text == f"{whole}\n"

"""The fold: events in, one bounded answer out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.models import (
    ClearOutput,
    Display,
    Done,
    ErrorEvent,
    Event,
    ExceptionInfo,
    Queued,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
)
from era_kernels.services.executions.result import HeadTailBuffer, ResultBuilder, RunResult

DONE = Done(
    exit_code=1,
    duration="1.5ms",
    execution_time_ms=1.5,
    files_modified=2,
    session_id="s1",
    execution_id="e1",
    state="preserved",
    started_from="live",
    kernel_generation=3,
    queued_ms=0.25,
    start_ms=0.5,
    exception=ExceptionInfo("ValueError", "no", ["line 1"]),
    cause="exit 1",
    data={"n": 1},
)


def build_result(*events: Event, max_bytes: int = 1 << 20) -> RunResult:
    builder = ResultBuilder("e1", "s1", max_bytes)
    builder.add(events)
    return builder.result()


def text(value: str) -> dict[str, str]:
    return {"text/plain": value}


def shown_texts(answer: RunResult) -> list[str]:
    return [result["data"]["text/plain"] for result in answer.results]


def test_streams_are_concatenated() -> None:
    """Each stream is the concatenation of its events; what a queue says is not output."""
    answer = build_result(Queued(1), Stdout("a"), Stderr("x"), Stdout("b\n"), Stderr("y"))
    assert (answer.stdout, answer.stderr, answer.truncated) == ("ab\n", "xy", False)


def test_end_is_told() -> None:
    """What `done` says is in the answer, under the same names."""
    failure = ErrorEvent("Kernel died", "It died.", "KERNEL_DIED")
    answer = build_result(failure, DONE)
    for name in ("exit_code", "duration", "data", "exception", "state", "cause", "queued_ms"):
        assert getattr(answer, name) == getattr(DONE, name)
    assert answer.error is failure


def test_answer_so_far() -> None:
    """Before the end, what only the end tells is None; more may be added afterwards."""
    fold = ResultBuilder("e1", "s1", 100)
    fold.add([Stdout("a")])
    assert (fold.result().stdout, fold.result().exit_code) == ("a", None)
    fold.add([Stdout("b"), DONE])
    assert (fold.result().stdout, fold.result().exit_code) == ("ab", 1)


# ---------------------------------------------------------------- the bound of text


def test_output_within_the_bound_is_whole() -> None:
    """Exactly as many bytes as the bound allows are not truncated."""
    answer = build_result(Stdout("12345"), Stderr("67890"), max_bytes=10)
    assert (answer.stdout, answer.stderr, answer.truncated) == ("12345", "67890", False)


def test_output_past_the_bound_keeps_head_and_tail() -> None:
    """One byte more, and the middle is left out, with a marker that says how much."""
    answer = build_result(Stdout("abcdefghijk"), max_bytes=10)
    assert answer.stdout == "abcde\n[... 1 bytes left out ...]\nghijk"
    assert answer.truncated


def test_short_stream_is_not_cut_for_a_long_one() -> None:
    """The streams share the bound: what one does not need, the other gets."""
    answer = build_result(Stdout("x" * 1000), Stderr("z" * 20), max_bytes=100)
    assert answer.stderr == "z" * 20
    assert answer.stdout.count("x") == 80
    answer = build_result(Stdout("x" * 20), Stderr("z" * 1000), max_bytes=100)
    assert answer.stdout == "x" * 20
    assert answer.stderr.count("z") == 80


def test_cut_never_splits_a_character() -> None:
    """A cut inside a multi-byte character drops what is left of it."""
    for bound in range(2, 60):
        answer = build_result(Stdout("€" * 50), max_bytes=bound)
        head, marker, tail = answer.stdout.partition("\n[... ")
        assert marker
        tail = tail.partition("]\n")[2]
        assert set(head + tail) <= {"€"}
        assert bound - 6 <= len((head + tail).encode()) <= bound


def test_lone_surrogates_become_question_marks() -> None:
    """Half a surrogate pair is no text that can be sent."""
    assert build_result(Stdout("a\ud800b")).stdout == "a?b"


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(0, 100))
def test_buffer_keeps_both_ends(pieces: list[str], bound: int) -> None:
    """Whatever the pieces: the whole where it fits, else a prefix and a suffix of it."""
    clip = HeadTailBuffer(100)
    for piece in pieces:
        clip.add(piece)
    whole = "".join(pieces).encode("utf-8", "replace").decode()
    assert clip.size == len(whole.encode())
    cut = clip.text(bound)
    if clip.size <= bound:
        assert cut == whole
        return
    marker = f"\n[... {clip.size - bound // 2 * 2} bytes left out ...]\n"
    assert marker in cut
    assert any(
        whole.startswith(cut[:at]) and whole.endswith(cut[at + len(marker) :])
        for at in range(len(cut))
        if cut.startswith(marker, at)
    )


def test_buffer_is_bounded() -> None:
    """Any number of pieces costs at most one and a half times the bound."""
    clip = HeadTailBuffer(1000)
    for _ in range(10_000):
        clip.add("xy")
    assert len(clip._head) + len(clip._tail) == 1500
    assert clip.size == 20_000


# ---------------------------------------------------------------- rich outputs


def test_results_in_order() -> None:
    """Rich outputs come in order, by the names of Jupyter's messages."""
    answer = build_result(Display(text("d"), {"m": 1}), Result(text("r")))
    assert answer.results == [
        {"type": "display_data", "data": text("d"), "metadata": {"m": 1}},
        {"type": "execute_result", "data": text("r"), "metadata": {}},
    ]


def test_display_is_updated_in_place() -> None:
    """An update replaces what every display of its id shows, and nothing else."""
    answer = build_result(
        Display(text("a"), display_id="1"),
        Display(text("b"), display_id="2"),
        Display(text("c"), display_id="1"),
        Display(text("d")),
        UpdateDisplay(text("new"), display_id="1"),
    )
    assert shown_texts(answer) == ["new", "b", "new", "d"]
    assert {result["type"] for result in answer.results} == {"display_data"}


def test_display_after_an_update_shows_its_own() -> None:
    """An update replaces what was there; a later display of the id waits for the next update."""
    shows = (
        Display(text("a"), display_id="1"),
        UpdateDisplay(text("new"), display_id="1"),
        Display(text("b"), display_id="1"),
    )
    assert shown_texts(build_result(*shows)) == ["new", "b"]
    assert shown_texts(build_result(*shows, UpdateDisplay(text("c"), display_id="1"))) == ["c", "c"]


@pytest.mark.timeout(30)
def test_updates_cost_the_same_however_many_displays_there_are() -> None:
    """Ten thousands of both are folded in seconds, whether they share one id or have their own."""
    for name in ("same", None):
        fold = ResultBuilder("e1", "s1", 10 << 20)
        fold.add(Display(text(""), display_id=name or str(n)) for n in range(40_000))
        fold.add(UpdateDisplay(text("u"), display_id=name or str(n)) for n in range(40_000))
        assert set(shown_texts(fold.result())) == {"u"}


def test_update_past_the_bound_is_a_note() -> None:
    """An update that does not fit for all displays of its id is a note in each of them."""
    shows = [Display(text("." * 40), display_id="1") for _ in range(3)]
    answer = build_result(*shows, UpdateDisplay(text("x" * 200), display_id="1"), max_bytes=400)
    assert [value[:5] for value in shown_texts(answer)] == ["[... "] * 3
    assert answer.truncated


def test_update_of_nothing_is_nothing() -> None:
    """An update of an unknown display, or of none, shows nothing."""
    answer = build_result(Display(text("a")), UpdateDisplay(text("b"), display_id="9"))
    assert shown_texts(answer) == ["a"]
    assert shown_texts(build_result(Display(text("a")), UpdateDisplay(text("b")))) == ["a"]


def test_clear_output() -> None:
    """Clearing drops the rich outputs and leaves the text."""
    answer = build_result(Stdout("t"), Display(text("a")), ClearOutput(), Display(text("b")))
    assert (shown_texts(answer), answer.stdout) == (["b"], "t")


def test_clear_output_waits() -> None:
    """With `wait` the outputs stay until the next one comes."""
    waiting = (Display(text("a")), ClearOutput(wait=True))
    assert shown_texts(build_result(*waiting)) == ["a"]
    assert shown_texts(build_result(*waiting, Display(text("b")), Display(text("c")))) == ["b", "c"]


def test_results_share_the_bound() -> None:
    """What rich outputs take, the text has not."""
    display = Display(text("d" * 100))
    size = len(json.dumps({"type": "display_data", "data": display.data, "metadata": {}}))
    answer = build_result(display, Stdout("x" * 100), max_bytes=size + 50)
    assert answer.truncated
    assert answer.stdout.count("x") == 50


def test_result_past_the_bound_is_a_note() -> None:
    """A rich output that does not fit is replaced by a note of its size; smaller ones follow."""
    answer = build_result(Display(text("d" * 1000)), Display(text("e")), max_bytes=300)
    assert [value[:5] for value in shown_texts(answer)] == ["[... ", "e"]
    assert answer.truncated


def test_results_never_grow_past_the_bound() -> None:
    """However many rich outputs come, the answer stays within its bound."""
    fold = ResultBuilder("e1", "s1", 1000)
    fold.add(Display(text("x" * (n % 200)), display_id=str(n % 7)) for n in range(2000))
    fold.add(UpdateDisplay(text("y" * n), display_id=str(n % 7)) for n in range(300))
    answer = fold.result()
    assert sum(len(json.dumps(result)) for result in answer.results) <= 1000
    assert answer.truncated


def test_cleared_outputs_leave_room() -> None:
    """After clearing there is room again, and what was left out before is of no interest."""
    big: dict[str, Any] = text("d" * 1000)
    answer = build_result(Display(big), ClearOutput(), Display(text("e")), max_bytes=300)
    assert (shown_texts(answer), answer.truncated) == (["e"], False)


def test_long_outputs_are_folded_in_steps() -> None:
    """What is long is measured while others have their turn; the answer is the same."""
    long: dict[str, Any] = {"text/plain": "x" * 400_000, "y": [[1]] * 5000}
    events = [Result(long), Display(long, {}, "d"), UpdateDisplay(long, {}, "d"), Stdout("a")]
    for bound in (300, 2_000_000):
        fold = ResultBuilder("e1", "s1", bound)
        asyncio.run(fold.add_cooperatively(events))
        answer = fold.result()
        assert answer.stdout == "a"
        if bound > 300:
            assert [result["data"] for result in answer.results] == [long, long]
        assert answer.truncated == (bound == 300)

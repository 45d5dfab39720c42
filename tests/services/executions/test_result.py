"""A run's events become one bounded result."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era_kernels.json_incremental import iterencode
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


def shown(run_result: RunResult) -> list[Any]:
    return [json.loads(b"".join(iterencode(result))) for result in run_result.results]


def shown_texts(run_result: RunResult) -> list[str]:
    return [result["data"]["text/plain"] for result in shown(run_result)]


def test_streams_are_concatenated() -> None:
    """Each stream is the concatenation of its events; events of the queue are not output."""
    run_result = build_result(Queued(1), Stdout("a"), Stderr("x"), Stdout("b\n"), Stderr("y"))
    assert (run_result.stdout, run_result.stderr, run_result.truncated) == ("ab\n", "xy", False)


def test_end_is_told() -> None:
    """The fields of `done` are in the result, under the same names."""
    failure = ErrorEvent("Kernel died", "It died.", "KERNEL_DIED")
    run_result = build_result(failure, DONE)
    for name in ("exit_code", "duration", "data", "exception", "state", "cause", "queued_ms"):
        assert getattr(run_result, name) == getattr(DONE, name)
    assert run_result.error is failure


def test_answer_so_far() -> None:
    """Before the end, the fields of the end are None; more may be added afterwards."""
    builder = ResultBuilder("e1", "s1", 100)
    builder.add([Stdout("a")])
    assert (builder.result().stdout, builder.result().exit_code) == ("a", None)
    builder.add([Stdout("b"), DONE])
    assert (builder.result().stdout, builder.result().exit_code) == ("ab", 1)


# ---------------------------------------------------------------- the limit of text


def test_output_within_the_bound_is_whole() -> None:
    """Output of exactly `max_bytes` bytes is not truncated."""
    run_result = build_result(Stdout("12345"), Stderr("67890"), max_bytes=10)
    assert (run_result.stdout, run_result.stderr, run_result.truncated) == ("12345", "67890", False)


def test_output_past_the_bound_keeps_head_and_tail() -> None:
    """With one byte more, the middle is left out, with a marker that tells how much."""
    run_result = build_result(Stdout("abcdefghijk"), max_bytes=10)
    assert run_result.stdout == "abcde\n[... 1 bytes left out ...]\nghijk"
    assert run_result.truncated and not run_result.is_stdout_whole
    run_result = build_result(Stdout("abcde"), Stderr("x" * 20), max_bytes=10)
    assert run_result.truncated and run_result.is_stdout_whole


def test_short_stream_is_not_cut_for_a_long_one() -> None:
    """The streams share the limit: what one does not need, the other gets."""
    run_result = build_result(Stdout("x" * 1000), Stderr("z" * 20), max_bytes=100)
    assert run_result.stderr == "z" * 20
    assert run_result.stdout.count("x") == 80
    run_result = build_result(Stdout("x" * 20), Stderr("z" * 1000), max_bytes=100)
    assert run_result.stdout == "x" * 20
    assert run_result.stderr.count("z") == 80


def test_cut_never_splits_a_character() -> None:
    """A cut inside a multi-byte character drops what is left of it."""
    for max_bytes in range(2, 60):
        run_result = build_result(Stdout("€" * 50), max_bytes=max_bytes)
        head, marker, tail = run_result.stdout.partition("\n[... ")
        assert marker
        tail = tail.partition("]\n")[2]
        assert set(head + tail) <= {"€"}
        assert max_bytes - 6 <= len((head + tail).encode()) <= max_bytes


def test_lone_surrogates_become_question_marks() -> None:
    """Half a surrogate pair is no text that can be sent."""
    assert build_result(Stdout("a\ud800b")).stdout == "a?b"


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(0, 100))
def test_buffer_keeps_both_ends(pieces: list[str], max_bytes: int) -> None:
    """The text is the whole where it fits, else a prefix and a suffix, whatever the pieces."""
    buffer = HeadTailBuffer(100)
    for piece in pieces:
        buffer.add(piece)
    whole = "".join(pieces).encode("utf-8", "replace").decode()
    assert buffer.size == len(whole.encode())
    cut = buffer.text(max_bytes)
    if buffer.size <= max_bytes:
        assert cut == whole
        return
    marker = f"\n[... {buffer.size - max_bytes // 2 * 2} bytes left out ...]\n"
    assert marker in cut
    assert any(
        whole.startswith(cut[:at]) and whole.endswith(cut[at + len(marker) :])
        for at in range(len(cut))
        if cut.startswith(marker, at)
    )


def test_buffer_is_bounded() -> None:
    """Any number of pieces costs at most one and a half times the limit."""
    buffer = HeadTailBuffer(1000)
    for _ in range(10_000):
        buffer.add("xy")
    assert len(buffer._head) + len(buffer._tail) == 1500
    assert buffer.size == 20_000


# ---------------------------------------------------------------- rich outputs


def test_results_in_order() -> None:
    """Rich outputs come in order, by the names of Jupyter's messages."""
    run_result = build_result(Display(text("d"), {"m": 1}), Result(text("r")))
    assert shown(run_result) == [
        {"type": "display_data", "data": text("d"), "metadata": {"m": 1}},
        {"type": "execute_result", "data": text("r"), "metadata": {}},
    ]


def test_display_is_updated_in_place() -> None:
    """An update replaces what every display of its id shows, and nothing else."""
    run_result = build_result(
        Display(text("a"), display_id="1"),
        Display(text("b"), display_id="2"),
        Display(text("c"), display_id="1"),
        Display(text("d")),
        UpdateDisplay(text("new"), display_id="1"),
    )
    assert shown_texts(run_result) == ["new", "b", "new", "d"]
    assert {result["type"] for result in shown(run_result)} == {"display_data"}


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
    """Ten thousands of both take seconds, whether they share one id or have their own."""
    for name in ("same", None):
        builder = ResultBuilder("e1", "s1", 10 << 20)
        builder.add(Display(text(""), display_id=name or str(n)) for n in range(40_000))
        builder.add(UpdateDisplay(text("u"), display_id=name or str(n)) for n in range(40_000))
        assert set(shown_texts(builder.result())) == {"u"}


def test_update_past_the_bound_is_a_note() -> None:
    """An update that does not fit for all displays of its id is a note in each of them."""
    shows = [Display(text("." * 40), display_id="1") for _ in range(3)]
    run_result = build_result(*shows, UpdateDisplay(text("x" * 200), display_id="1"), max_bytes=400)
    assert [value[:5] for value in shown_texts(run_result)] == ["[... "] * 3
    assert run_result.truncated


def test_update_of_nothing_is_nothing() -> None:
    """An update of an unknown display, or of none, shows nothing."""
    run_result = build_result(Display(text("a")), UpdateDisplay(text("b"), display_id="9"))
    assert shown_texts(run_result) == ["a"]
    assert shown_texts(build_result(Display(text("a")), UpdateDisplay(text("b")))) == ["a"]


def test_clear_output() -> None:
    """Clearing drops the rich outputs and leaves the text."""
    run_result = build_result(Stdout("t"), Display(text("a")), ClearOutput(), Display(text("b")))
    assert (shown_texts(run_result), run_result.stdout) == (["b"], "t")


def test_clear_output_waits() -> None:
    """With `wait` the outputs stay until the next one comes."""
    waiting = (Display(text("a")), ClearOutput(wait=True))
    assert shown_texts(build_result(*waiting)) == ["a"]
    assert shown_texts(build_result(*waiting, Display(text("b")), Display(text("c")))) == ["b", "c"]


def test_results_share_the_bound() -> None:
    """The text has only the room that rich outputs leave."""
    display = Display(text("d" * 100))
    size = len(json.dumps({"type": "display_data", "data": display.data, "metadata": {}}))
    run_result = build_result(display, Stdout("x" * 100), max_bytes=size + 50)
    assert run_result.truncated
    assert run_result.stdout.count("x") == 50


def test_result_past_the_bound_is_a_note() -> None:
    """A rich output that does not fit is replaced by a note of its size; smaller ones follow."""
    run_result = build_result(Display(text("d" * 1000)), Display(text("e")), max_bytes=300)
    assert [value[:5] for value in shown_texts(run_result)] == ["[... ", "e"]
    assert run_result.truncated


def test_results_never_grow_past_the_bound() -> None:
    """However many rich outputs come, the result stays within its limit."""
    builder = ResultBuilder("e1", "s1", 1000)
    builder.add(Display(text("x" * (n % 200)), display_id=str(n % 7)) for n in range(2000))
    builder.add(UpdateDisplay(text("y" * n), display_id=str(n % 7)) for n in range(300))
    run_result = builder.result()
    assert sum(len(json.dumps(result)) for result in shown(run_result)) <= 1000
    assert run_result.truncated


def test_cleared_outputs_leave_room() -> None:
    """After clearing there is room again, and the result is not marked truncated."""
    big: dict[str, Any] = text("d" * 1000)
    run_result = build_result(Display(big), ClearOutput(), Display(text("e")), max_bytes=300)
    assert (shown_texts(run_result), run_result.truncated) == (["e"], False)


async def test_long_outputs_are_folded_in_steps() -> None:
    """Large outputs are measured while other tasks run; the result is the same."""
    long: dict[str, Any] = {"text/plain": "x" * 400_000, "y": [[1]] * 5000}
    events = [Result(long), Display(long, {}, "d"), UpdateDisplay(long, {}, "d"), Stdout("a")]
    for max_bytes in (300, 2_000_000):
        builder = ResultBuilder("e1", "s1", max_bytes)
        await builder.add_cooperatively(events)
        run_result = builder.result()
        assert run_result.stdout == "a"
        if max_bytes > 300:
            assert [result["data"] for result in shown(run_result)] == [long, long]
        assert run_result.truncated == (max_bytes == 300)


@pytest.mark.parametrize("arrays", [1000, 40_000])
@pytest.mark.parametrize("display_id", [None, "1"])
async def test_kept_outputs_take_what_their_text_takes(arrays: int, display_id: str | None) -> None:
    """Empty arrays take 24 times their text as values; a run keeps no more than the text."""
    max_bytes = 1 << 18
    builder = ResultBuilder("e1", "s1", max_bytes)
    tracemalloc.start()
    try:
        for _ in range(2 * max_bytes // (3 * arrays)):
            data = {"a": [[] for _ in range(arrays)]}
            await builder.add_cooperatively([Display(data, {}, display_id)])
            if display_id is not None:
                await builder.add_cooperatively([UpdateDisplay(data, {}, display_id)])
            del data
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert builder.result().results
    assert kept < 3 * max_bytes

"""A long text of a stream comes in parts: the same text, in bounded memory."""

from __future__ import annotations

import tracemalloc

import pytest

from era_kernels.json_incremental import SanitizedDict, Utf8Text
from era_kernels.kernels.long_texts import PART_BYTES, split_long_text
from era_kernels.kernels.message_events import parse_reply, to_event
from era_kernels.kernels.wire_protocol import Message
from era_kernels.models import ExceptionInfo, ExecutionEnd, Stdout
from tests.kernels.scripted_kernel import JupyterMessage, OpenHarness, ScriptedKernel

EMOJI = "\U0001f600"


@pytest.mark.parametrize("piece", [b"x" * 1000, "\u20ac".encode() * 300, EMOJI.encode()])
def test_parts_are_the_text(piece: bytes) -> None:
    """Each has a bounded size, and is a message of its own."""
    pieces = [piece] * (1_000_000 // len(piece))
    content = SanitizedDict(name="stderr", text=Utf8Text(pieces))
    parts = [*split_long_text(Message("stream", "parent", content, 1_000_000))]
    assert len(parts) > 3
    assert all(part.parent_id == "parent" for part in parts)
    assert all(part.size <= PART_BYTES + 1000 for part in parts)
    assert sum(part.size for part in parts) == len(piece) * len(pieces)
    assert "".join(part.content["text"] for part in parts) == b"".join(pieces).decode()


@pytest.mark.parametrize(
    "message",
    [
        Message("stream", "", SanitizedDict(name="stdout", text="x" * 1_000_000), 1_000_000),
        Message("display_data", "", SanitizedDict(text=Utf8Text([b"x"] * 9)), 9),
        Message("stream", "", SanitizedDict(name="stdout"), 0),
    ],
    ids=["short", "no stream", "no text"],
)
def test_other_messages_stay_whole(message: Message) -> None:
    """They are handed on as they are."""
    [found] = split_long_text(message)
    assert found is message


async def test_a_long_text_waits_as_it_came(run_in_harness: OpenHarness) -> None:
    """It reaches the run whole, and a run that is slow has a part of it; not four times as much."""
    text = "x" * 4_000_000 + EMOJI + "y" * 4_000_000

    def script(scripted: ScriptedKernel, request: JupyterMessage) -> None:
        scripted.publish_stream(request, text)
        scripted.publish_stream(request, "end")
        scripted.finish_run(request)

    async with run_in_harness(script) as harness:
        found = await harness.run()
    assert found[-1] == ExecutionEnd(0)
    outputs = [event for event in found[:-1] if isinstance(event, Stdout)]
    assert len(outputs) > 3
    assert max(len(event.content) for event in outputs) < 2_000_000
    assert "".join(event.content for event in outputs) == text + "end"


def test_of_other_texts_no_more_than_is_used_is_made_a_string() -> None:
    """The parts of an error may have as many megabytes, and are cut to some kilobytes."""
    long = Utf8Text([EMOJI.encode() * 5000] * 1000)
    era = {"exit_code": 1, "exception": {"name": long, "value": long, "traceback": [long]}}
    tracemalloc.start()
    try:
        reply = parse_reply({"era": era})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reply is not None
    assert isinstance(reply.exception, ExceptionInfo)
    assert set(reply.exception.name) == {EMOJI}
    assert most < 30_000_000
    assert to_event("input_request", {"prompt": long, "key": "k"}) is not None

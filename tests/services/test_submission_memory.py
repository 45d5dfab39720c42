"""What waits or runs shares a bound of memory; small submissions are always taken."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.errors import AtCapacity, QueueFull
from era_kernels.models import ExecSubmission, Submission
from era_kernels.services.submission_memory import SMALL_BYTES, SubmissionMemory, memory_size
from tests.services.service_fixture import Services

KIB, MIB = 1024, 1024 * 1024


def test_every_text_counts() -> None:
    """Code, variables, files, arguments and stdin; an emoji makes each character four bytes."""
    text = "a" * MIB
    for submission in (
        Submission(text),
        Submission("", env={"A": text}),
        Submission("", files={"f": text}),
        ExecSubmission(("echo", text), ""),
        ExecSubmission((), "", stdin=text),
        ExecSubmission((), "", env={"A": text}),
    ):
        assert MIB < memory_size(submission) < MIB + KIB
    assert memory_size(Submission(text + "😀")) > 4 * MIB
    assert memory_size(Submission("1")) < KIB


def test_a_session_has_its_share() -> None:
    """It holds half of the bound, but one in any case; others have room then."""
    memory = SubmissionMemory(8 * MIB)
    memory.acquire("a", 3 * MIB)
    memory.acquire("a", MIB)
    with pytest.raises(QueueFull, match="of this session that have not ended hold 4 MiB"):
        memory.acquire("a", MIB)
    memory.acquire("a", SMALL_BYTES)
    memory.acquire("b", 3 * MIB)
    with pytest.raises(AtCapacity, match="hold 7232 KiB of the server's memory"):
        memory.acquire("c", MIB)
    memory.acquire("c", SMALL_BYTES)
    memory.release("a", 3 * MIB)
    memory.acquire("d", MIB)
    assert memory.total == 5 * MIB + 2 * SMALL_BYTES


def test_one_beyond_the_bound_is_taken_alone() -> None:
    memory = SubmissionMemory(MIB)
    memory.acquire("a", 5 * MIB)
    memory.release("a", 5 * MIB)
    assert memory.total == 0
    assert not memory._held


async def test_runs_and_commands_count_until_they_end(services: Services) -> None:
    """Queued, running, cancelled and refused ones: at the end nothing is counted."""
    memory = services.context.submission_memory
    memory._max_bytes = 2 * MIB
    await services.create()
    comment = "\n# " + "a" * 700_000
    running = await services.submit("gate open" + comment)
    with pytest.raises(QueueFull):
        await services.submit("out b" + comment)
    with pytest.raises(QueueFull):
        await services.exec("out b", stdin=comment)
    assert services.kernel_limiter.holder_count == 1
    small = await services.submit("out small")
    cancelled = await services.submit("out c")
    await cancelled.interrupt()
    services.gates["open"].set()
    await asyncio.gather(running.result(), small.result())
    await services.run("out again" + comment)
    await (await services.exec("out d", stdin=comment)).result()
    await services.sessions.delete("s1")
    assert memory.total == 0

"""Large answers wait for memory, session by session; a client that reads nothing loses its own."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from era_kernels.web import answer_memory
from era_kernels.web.answer_memory import COPIES, SLICE_BYTES, AnswerMemory, in_slices
from tests.web.fakes import LANGUAGE
from tests.web.serving import run_server

MIB = 1024 * 1024
BOUND = 8 * MIB  # two answers of 2 MiB


class Answer:
    """An answer that takes its share when it may."""

    def __init__(self, memory: AnswerMemory) -> None:
        self.ended = False
        self.share = memory.open(self._end)

    def _end(self) -> None:
        self.ended = True
        self.share.close()

    def take(self, owner: str, size: int = 2 * MIB) -> asyncio.Task[None]:
        return asyncio.create_task(self.share.take(size, owner))


async def test_answers_wait_for_memory() -> None:
    """Two fit; the third goes on when one is closed."""
    memory = AnswerMemory(BOUND)
    answers = [Answer(memory) for _ in range(3)]
    taking = [one.take("s1") for one in answers]
    await asyncio.sleep(0.01)
    assert [task.done() for task in taking] == [True, True, False]
    assert memory.total == BOUND
    answers[0].share.close()
    await taking[2]
    for one in answers:
        one.share.close()
        one.share.close()
    assert memory.total == 0


async def test_an_answer_beyond_the_bound_goes_alone() -> None:
    memory = AnswerMemory(BOUND)
    await Answer(memory).take("s1", 5 * BOUND)


async def test_a_second_request_takes_nothing() -> None:
    """Who waited for memory before the answer was made does not wait again when it is sent."""
    memory = AnswerMemory(BOUND)
    answer = Answer(memory)
    await answer.take("s1")
    await answer.take("s1", 100 * MIB)
    assert memory.total == COPIES * 2 * MIB


async def test_sessions_take_turns() -> None:
    """A session that asks for many makes another one wait for one of them."""
    memory, order = AnswerMemory(2 * MIB), list[str]()

    async def answer(owner: str) -> None:
        share = memory.open(lambda: None)
        await share.take(MIB, owner)
        order.append(owner)
        await asyncio.sleep(0)
        share.close()

    await asyncio.gather(*map(answer, "aaaaaab"))
    assert order.index("b") <= 2


@pytest.mark.parametrize("cancelled", [True, False])
async def test_those_that_leave_wait_no_more(cancelled: bool) -> None:
    memory = AnswerMemory(2 * MIB)
    first, leaving, last = (Answer(memory) for _ in range(3))
    await first.take("a", MIB)
    waiting, next_ = leaving.take("b", MIB), last.take("c", MIB)
    await asyncio.sleep(0.01)
    if cancelled:
        waiting.cancel()
    leaving.share.close()
    assert not next_.done()
    first.share.close()
    await next_
    waiting.cancel()


async def test_unread_answers_end_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not read is ended only where it is in the way; one that is read is not."""
    monkeypatch.setattr(answer_memory, "CHECK_INTERVAL", 0.01)
    memory = AnswerMemory(BOUND, stall_seconds=0.1)
    unread, read, being_made, last = (Answer(memory) for _ in range(4))
    for one in (unread, read):
        await one.take("s1")
        one.share.begin_sending()
    await asyncio.sleep(0.3)
    assert not unread.ended  # nobody waits
    waiting = last.take("s2", MIB)
    read.share.sent(1000 * MIB)
    await waiting
    assert unread.ended
    assert not read.ended
    for one in (read, last):
        one.share.close()
    await being_made.take("s1", BOUND)
    assert not being_made.ended
    late = Answer(memory).take("s3")
    await asyncio.sleep(0.3)
    assert not being_made.ended
    assert not late.done()
    being_made.share.close()
    await late


def test_slices() -> None:
    """Nothing is lost, and no piece is much larger than a slice."""
    pieces = [b"a", b"b" * 10, b"c" * (3 * SLICE_BYTES + 1), b"", b"d" * SLICE_BYTES, b"e"]
    slices = list(in_slices(pieces))
    assert b"".join(slices) == b"".join(pieces)
    assert all(0 < len(one) <= SLICE_BYTES for one in slices)
    assert list(in_slices([])) == []


def test_large_answers_are_whole_and_counted() -> None:
    """By HTTP: the answer has its length and its warnings; one that nobody reads is in memory."""
    with run_server(max_body=8 * MIB) as server:
        text = '"é' * MIB
        server.http.post("/api/sessions", json={"language": LANGUAGE, "session_id": "big"})
        path = "/api/sessions/big"
        server.http.patch(path, json={"data": {"text": text}}).raise_for_status()
        answer = server.http.get(path)
        assert answer.json()["data"] == {"text": text}
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        assert server.context.answer_memory.total == 0
        with socket.create_connection(("127.0.0.1", server.port)) as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            unread.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            deadline = time.monotonic() + 30
            while not server.context.answer_memory.total and time.monotonic() < deadline:
                time.sleep(0.01)
            assert server.context.answer_memory.total > len(text)
        while server.context.answer_memory.total and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.context.answer_memory.total == 0

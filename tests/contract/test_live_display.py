"""Progress that is seen while it happens: carriage returns, parts of lines, displays updated."""

from __future__ import annotations

import itertools
import time
from typing import Any

import psutil

from tests.client import Client, SessionClient, SseEvent
from tests.contract.checks import check
from tests.server_process import Server

# The bytes that tqdm writes, made the way it makes them: \r before each line, flushed, and spaces
# over what a shorter line would leave of a longer one; a line feed at the end.
TQDM = """
import sys, time
last = 0
def status(text):
    global last
    sys.stderr.write("\\r" + text + " " * max(last - len(text), 0))
    sys.stderr.flush()
    last = len(text)
for n in range({count} + 1):
    bar = "#" * (10 * n // {count})
    rate = "?" if n < 3 else "%.1f" % (n / 7)
    status(f"{{100 * n // {count}:3d}}%|{{bar:10}}| {{n}}/{count} [{{rate}}it/s]")
    time.sleep({pause})
status("done")
sys.stderr.write("\\n")
print("after")
"""


class Screen:
    """A terminal as far as progress needs one: what a person would see."""

    def __init__(self) -> None:
        self.lines = [""]
        self._column = 0

    def feed(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self.lines.append("")
                self._column = 0
            elif character == "\r":
                self._column = 0
            elif character == "\b":
                self._column = max(0, self._column - 1)
            else:
                line = self.lines[-1].ljust(self._column)
                self.lines[-1] = line[: self._column] + character + line[self._column + 1 :]
                self._column += 1

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines]


class Outputs:
    """The rich outputs as a front-end shows them, event by event."""

    def __init__(self) -> None:
        self.shown: list[tuple[str | None, dict[str, Any]]] = []
        self._clear = False

    def feed(self, event: SseEvent) -> None:
        if event.event == "clear_output":
            self._clear = event.data["wait"]
            if not self._clear:
                self.shown.clear()
        elif event.event in ("display", "result"):
            if self._clear:
                self.shown.clear()
                self._clear = False
            self.shown.append((event.data.get("display_id"), event.data["data"]))
        elif event.event == "update_display":
            name = event.data["display_id"]
            self.shown = [
                (one, event.data["data"] if one == name else data) for one, data in self.shown
            ]

    @property
    def texts(self) -> list[str]:
        return [data["text/plain"] for _, data in self.shown]


def test_progress_bar(session: SessionClient) -> None:
    """The screen is right at every moment and at the end; the bar moves while the program runs."""
    screen, seen, arrived = Screen(), [], []
    with session.open_stream(TQDM.format(count=40, pause=0.03)) as events:
        for event in events:
            if event.event in ("stdout", "stderr"):
                screen.feed(event.data["content"])
                seen.append(screen.shown)
                arrived.append(time.monotonic())
            last = event
    assert screen.shown == ["done", "after", ""]
    check(last.data, exit_code=0)
    bars = [shown[0] for shown in seen if "%|" in shown[0]]
    assert len(set(bars)) >= 20, "most of 41 steps are seen one by one"
    assert all(len(bar) < 50 for bar in bars), "never two bars in one line"
    assert arrived[-1] - arrived[0] > 1.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrived)]
    assert sorted(gaps)[len(gaps) // 2] < 0.2


def test_answer_keeps_the_bytes(session: SessionClient) -> None:
    """A run's answer has what was written, `\\r` and all, and so shows the same screen."""
    answer = session.run(TQDM.format(count=10, pause=0))
    screen = Screen()
    screen.feed(answer["stderr"])
    assert screen.shown == ["done", ""]
    assert answer["stderr"].count("\r") == 12
    assert answer["stdout"] == "after\n"


def test_parts_of_a_line(session: SessionClient) -> None:
    """Dots that are flushed one by one arrive one by one, also across a character's bytes."""
    code = """
import sys, time
for part in ("lo", "ad", "ing \\u2603", ".", ".", "."):
    print(part, end="", flush=True)
    time.sleep(0.1)
sys.stdout.buffer.write("\\u2603".encode()[:2]); sys.stdout.flush()
time.sleep(0.1)
sys.stdout.buffer.write("\\u2603".encode()[2:]); sys.stdout.flush()
print("\\b\\bok")
"""
    parts = [e.data["content"] for e in session.stream(code) if e.event == "stdout"]
    assert parts[:6] == ["lo", "ad", "ing \u2603", ".", ".", "."]
    screen = Screen()
    screen.feed("".join(parts))
    assert screen.shown == ["loading \u2603..ok", ""]


def test_updated_displays(session: SessionClient) -> None:
    """Two bars as displays: updated in place, seen while they move, right in the answer."""
    code = """
import time
from IPython.display import display, clear_output
first, second = display("a 0", display_id=True), display("b 0", display_id=True)
for n in range(1, 6):
    first.update(f"a {n}"); time.sleep(0.05); second.update(f"b {n}"); time.sleep(0.05)
display("end")
"""
    outputs, states = Outputs(), []
    with session.open_stream(code) as events:
        began = time.monotonic()
        for event in events:
            outputs.feed(event)
            states.append((outputs.texts, time.monotonic() - began))
            last = event
    assert outputs.texts == ["'a 5'", "'b 5'", "'end'"]
    assert (states[6][0], states[11][0]) == (["'a 3'", "'b 2'"], ["'a 5'", "'b 5'"])
    assert states[11][1] - states[2][1] > 0.2
    path = f"{session.path}/executions/{last.data['execution_id']}"
    results = session.http.get(path).json()["results"]
    assert [one["data"]["text/plain"] for one in results] == outputs.texts


def test_cleared_output(session: SessionClient) -> None:
    """An animation by `clear_output(wait=True)`: one frame at any time, the last one stays."""
    code = """
import time
from IPython.display import display, clear_output
for n in range(10):
    clear_output(wait=True); display(n); time.sleep(0.02)
"""
    outputs = Outputs()
    events = session.stream(code)
    for event in events:
        outputs.feed(event)
        assert len(outputs.texts) <= 1
    assert outputs.texts == ["9"]
    assert len([event for event in events if event.event == "display"]) == 10
    answer = session.run(code)
    assert [one["data"]["text/plain"] for one in answer["results"]] == ["9"]


def test_many_updates(server: Server, client: Client, session: SessionClient) -> None:
    """10 000 updates: the last is the answer's, and neither it nor the server grows with them."""
    code = """
from IPython.display import display
handle = display({"text/plain": "0"}, raw=True, display_id="bar")
for n in range(1, 10_001):
    handle.update({"text/plain": f"{n} " + "#" * 1000}, raw=True)
"""
    process = psutil.Process(server.process.pid)
    session.run("pass")
    before = process.memory_info().rss
    began = time.monotonic()
    answer = session.run(code)
    assert time.monotonic() - began < 30
    check(answer, exit_code=0)
    (result,) = answer["results"]
    assert result["data"]["text/plain"] == "10000 " + "#" * 1000
    assert process.memory_info().rss - before < 40 << 20
    outputs, count = Outputs(), 0
    with session.open_stream(code) as events:
        for event in events:
            outputs.feed(event)
            count += event.event != "queued"  # the run before may still be ending
    assert outputs.texts == ["10000 " + "#" * 1000]
    assert count <= 10_002, "an event each at most"
    assert process.memory_info().rss - before < 40 << 20

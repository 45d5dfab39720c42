"""Notices that a program waits for input, and asks those who follow the run for a line.

A program's standard input is a pipe. That somebody reads it can only be seen from outside: Linux
tells of each thread the system call that it waits in. Where it does not, the input is at its end.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from run import Run
from wire import Content, Message

READ_CALL = {"x86_64": "0", "aarch64": "63"}.get(platform.machine())
FIRST_SECONDS = 0.02  # between two looks in the first second of a run
LATER_SECONDS = 0.1
MAX_PROMPT = 8192  # characters


class InputRequests:
    """The input of the run under way."""

    def __init__(self) -> None:
        self._began_at = self._looked_at = 0.0
        self._key: str | None = None  # of the question that waits for an answer

    def begin(self, request: Message) -> bool:
        """Begins a run; returns whether its program may ask for input."""
        self._began_at = self._looked_at = monotonic()
        self._key = None
        is_of_server = bool(request["metadata"].get("era"))
        may_ask = is_of_server or bool(request["content"].get("allow_stdin", False))
        return may_ask and READ_CALL is not None

    def seconds_until_look(self, run: Run) -> float | None:
        """Returns the seconds until one must look again; None when there is nothing to see."""
        if run.stdin is None or self._key is not None:
            return None
        interval = FIRST_SECONDS if self._looked_at - self._began_at < 1 else LATER_SECONDS
        return max(0.0, self._looked_at + interval - monotonic())

    def wants_line(self, run: Run) -> bool:
        """Returns whether the program waits for input that it has not got."""
        if self.seconds_until_look(run) != 0:
            return False
        self._looked_at = monotonic()
        if run.has_unread_input():
            return False
        calls = list(_waiting_calls())
        if not calls:  # nobody may look: better no input than a program that waits for ever
            run.close_input()
        return (READ_CALL, "0x0") in calls

    def ask(self, content: Content) -> Content:
        """Notes that a question is asked; returns it with the key that its answer has."""
        content["prompt"] = content["prompt"][-MAX_PROMPT:]
        self._key = os.urandom(8).hex()
        return {**content, "key": self._key}

    def on_reply(self, content: Content, run: Run | None) -> Content:
        """Takes an answer that came on control; returns the reply to it."""
        is_taken = run is not None and self._key is not None and content.get("key") == self._key
        if is_taken and run is not None:
            self._give(content, run)
        return {"status": "ok", "taken": is_taken}

    def on_stdin_reply(self, content: Content, run: Run | None) -> None:
        """Takes an answer of a client of plain Jupyter."""
        if run is not None and self._key is not None and not run.is_of_server:
            self._give(content, run)

    def _give(self, content: Content, run: Run) -> None:
        self._key = None
        value: Any = content.get("value")
        run.write_input(value if isinstance(value, str) else None)


def _waiting_calls() -> Iterator[tuple[str, str]]:
    """Yields the system call that each thread of the program and its children waits in.

    With each comes its first argument. Processes are found by what Linux tells of this one: it may
    number them otherwise than this process does.
    """
    for pid in _descendants("self"):
        for thread in _list(f"/proc/{pid}/task"):
            with suppress(OSError):
                call = Path(f"/proc/{pid}/task/{thread}/syscall").read_text("ascii").split()
                yield call[0], call[1] if len(call) > 1 else ""


def _descendants(pid: str) -> Iterator[str]:
    """Yields the children of a process, and all that descend from them."""
    for thread in _list(f"/proc/{pid}/task"):
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text("ascii")
            for child in children.split():
                yield child
                yield from _descendants(child)


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names suffice
    except OSError:
        return []

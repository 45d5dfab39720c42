"""Tells how a program has ended: by its own exit, by a panic or a signal, or before it began."""

from __future__ import annotations

import re
import signal
from typing import Any

PANIC_CODE = 2  # with which the runtime ends a program after a panic and after fatal errors
MAX_TEXT = 4096  # characters of what ended a program

_PANIC = re.compile(
    r"^(panic|fatal error|SIGQUIT): (.*?)(?: \[recovered.*)?$(?=[\s\S]*?^goroutine \d+ )",
    re.MULTILINE,
)


def exit_code(status: int) -> int:
    """Returns the exit code of a process that ended so: 128 and the number of a signal."""
    return 128 - status if status < 0 else status


def describe_signal(status: int) -> str | None:
    """Returns what the go command says of a program that a signal ended; None for an exit."""
    if status >= 0:
        return None
    name = signal.strsignal(-status) or f"signal {-status}"
    return f"signal: {name.lower()}\n"


def find_exception(status: int, refusal: str | None, stderr: bytes) -> dict[str, Any] | None:
    """Returns what ended a program: a panic, a signal, or why it could not be built."""
    if refusal is not None:
        lines = [line for line in refusal.splitlines() if not line.startswith("# ")]
        return _exception("build failed", lines[0] if lines else "", refusal.splitlines())
    if status < 0:
        return _exception("signal", (describe_signal(status) or "").strip()[8:])
    if status != PANIC_CODE:
        return None
    text = stderr.decode(errors="replace")
    found = _PANIC.search(text)
    if found is None:
        return None
    return _exception(found[1], found[2], text[found.start() :].splitlines())


def _exception(name: str, value: str, traceback: list[str] | None = None) -> dict[str, Any]:
    return {"name": name, "value": value[:MAX_TEXT], "traceback": traceback or []}

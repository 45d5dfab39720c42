"""Entries that the tests of the sandbox call."""

from __future__ import annotations

import sys


def execute(code: str, *args: str) -> None:
    """Run a program's text as the main program."""
    main = sys.modules["__main__"]
    sys.argv = ["main.py", *args]
    exec(compile(code, "main.py", "exec"), vars(main))


def hello(*names: str) -> None:
    """Say whom it was called with."""
    print("hello", *names)

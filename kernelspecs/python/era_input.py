"""`input()` and `getpass.getpass()`: asked of who follows the run, else read from stdin as ever."""

from __future__ import annotations

import builtins
import contextlib
import functools
import getpass
import os
import sys
from collections.abc import Callable
from typing import Any

import era_runs
from era_control import Control
from era_output import Output

PROMPT = 8192  # characters of a prompt that are sent; what is longer is for stdout


class Input:
    """Takes the place of both functions. Where nobody is to be asked, the real ones are called."""

    def __init__(
        self, control: Control, output: Output, publish: Callable[[str, Any], object]
    ) -> None:
        self._control = control
        self._output = output
        self._publish = publish
        self._input, self._getpass = builtins.input, getpass.getpass
        self._standard = _identity(0)

    def install(self) -> None:
        """Once, so that what a program puts into their place stays there."""

        @functools.wraps(builtins.input)
        def input(prompt: object = "", /) -> str:
            if not self._is_asked():
                return self._input(prompt)
            prompt = str(prompt)
            answer = self._ask(prompt, password=False)
            return self._input(prompt) if answer is None else answer

        @functools.wraps(getpass.getpass)
        def ask_password(prompt: str = "Password: ", *args: Any, **kwargs: Any) -> str:
            answer = self._ask(prompt, password=True) if self._is_asked() else None
            return self._getpass(prompt, *args, **kwargs) if answer is None else answer

        builtins.input = input
        getpass.getpass = ask_password

    def _is_asked(self) -> bool:
        """Is stdin still the one of the start? A program may have put a text or a file there."""
        run = era_runs.current()
        return (
            not self._output.in_child
            and (run.nonce is not None or run.client is not None)
            and sys.stdin is sys.__stdin__
            and not getattr(sys.stdin, "closed", True)
            and _identity(0) == self._standard
        )

    def _ask(self, prompt: str, password: bool) -> str | None:
        """The answer; None when there is nobody, after what was printed so far has gone out."""
        for stream in (sys.stderr, sys.stdout):
            with contextlib.suppress(Exception):
                stream.flush()
        run = era_runs.current()
        shown = str(prompt)[:PROMPT].encode(errors="replace").decode()
        told: dict[str, Any] = {"prompt": shown, "password": password}
        if run.nonce is None:
            assert run.client is not None
            return self._control.ask_plainly(run.client, run.parent, told)
        key = os.urandom(8).hex()
        return self._control.ask(key, lambda: self._publish("input_request", {**told, "key": key}))


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file that is."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino

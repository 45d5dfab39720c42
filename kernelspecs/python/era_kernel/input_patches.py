"""Lets `input()` and `getpass.getpass()` ask those who follow the run, else read from stdin."""

from __future__ import annotations

import builtins
import getpass
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from io import TextIOWrapper
from os import fstat, urandom
from typing import Any

from era_kernel import run_context
from era_kernel.control_thread import ControlServer
from era_kernel.output_publisher import OutputPublisher

MAX_PROMPT_CHARS = 8192  # characters of a prompt that are sent; the rest is cut

_sys_names = vars(sys)  # what a program deleted is missing there


class InputPatches:
    """Replaces both functions; where nobody can be asked, the real ones are called."""

    def __init__(
        self,
        control_server: ControlServer,
        output: OutputPublisher,
        publish: Callable[[str, Any], object],
    ) -> None:
        self._control_server = control_server
        self._output = output
        self._publish = publish
        self._real_input, self._real_getpass = builtins.input, getpass.getpass
        self._original_stdin = _file_identity(0)

    def install(self) -> None:
        """Replaces the functions, only once: what a program puts into their place stays there."""

        @wraps(builtins.input)
        def input(prompt: object = "", /) -> str:  # noqa: A001 - programs see its name
            if not self._is_interactive():
                return self._real_input(prompt)
            prompt = str(prompt)
            answer = self._ask(prompt, password=False)
            return self._real_input(prompt) if answer is None else answer

        @wraps(getpass.getpass)
        def ask_password(prompt: str = "Password: ", *args: Any, **kwargs: Any) -> str:
            answer = self._ask(prompt, password=True) if self._is_interactive() else None
            return self._real_getpass(prompt, *args, **kwargs) if answer is None else answer

        builtins.input = input
        getpass.getpass = ask_password

    def _is_interactive(self) -> bool:
        """Returns whether a client can be asked, and stdin is still the one of the start.

        A program may have put a text or a file in its place.
        """
        run = run_context.current()
        return (
            not self._output.is_forked_child
            and (run.fence_nonce is not None or run.stdin_client is not None)
            and _is_stdin_untouched()
            and _file_identity(0) == self._original_stdin
        )

    def _ask(self, prompt: str, password: bool) -> str | None:
        """Flushes earlier output and asks; returns the answer, or None when nobody can answer."""
        for name in ("stderr", "stdout"):
            with suppress(Exception):
                _sys_names[name].flush()
        run = run_context.current()
        shown = str(prompt)[:MAX_PROMPT_CHARS].encode(errors="replace").decode()
        content: dict[str, Any] = {"prompt": shown, "password": password}
        if run.fence_nonce is None:
            assert run.stdin_client is not None
            return self._control_server.ask_via_stdin(run.stdin_client, run.parent_header, content)
        key = urandom(8).hex()
        return self._control_server.ask(
            key, lambda: self._publish("input_request", {**content, "key": key})
        )


def _is_stdin_untouched() -> bool:
    """Returns whether sys.stdin is the one that the kernel opened, and not closed."""
    stream = _sys_names.get("stdin")
    return (
        type(stream) is TextIOWrapper
        and stream is _sys_names.get("__stdin__")
        and not stream.closed
    )


def _file_identity(descriptor: int) -> tuple[int, int] | None:
    """Returns device and inode of the descriptor's file; None when the descriptor is closed."""
    try:
        status = fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino

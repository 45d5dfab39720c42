"""Answers requests about code, which no program has to run for, and tells what the kernel is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from wire import PROTOCOL_VERSION, Content

TIMEOUT = 10  # seconds for a look at code
ASKED = ("complete_request", "inspect_request", "is_complete_request")


class CodeRequests:
    """Asks `goask`, which knows the language and reads what fragments have left."""

    def __init__(self, tools: Mapping[str, str], state: Path) -> None:
        self._tools, self._state = tools, state

    def answer(self, kind: str, content: Content) -> Content:
        """Returns the content of the reply."""
        if kind == "kernel_info_request":
            return describe_kernel(self._tools["version"])
        if kind == "comm_info_request":
            return {"status": "ok", "comms": {}}
        if kind == "connect_request":
            return {"status": "ok"}
        if kind not in ASKED:
            return _error("NotImplementedError", f"this kernel knows no {kind}")
        try:
            return self._ask(kind.removesuffix("_request"), content)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return _error("KernelError", str(error))

    def _ask(self, what: str, content: Content) -> Content:
        code = str(content["code"])
        cursor = content.get("cursor_pos")
        position = len(code) if cursor is None else min(max(int(cursor), 0), len(code))
        command = [self._tools["goask"], "-std", self._tools["std"], "-state", str(self._state)]
        command += ["-at", str(position), what]
        asked = subprocess.run(
            command,
            input=code.encode(errors="replace"),
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=True,
        )
        reply: Content = json.loads(asked.stdout)
        return reply


def describe_kernel(version: str) -> Content:
    """Returns the content of a `kernel_info_reply`."""
    return {
        "status": "ok",
        "protocol_version": PROTOCOL_VERSION,
        "implementation": "era",
        "implementation_version": "1",
        "language_info": {
            "name": "go",
            "version": version,
            "mimetype": "text/x-go",
            "file_extension": ".go",
            "pygments_lexer": "go",
            "codemirror_mode": "go",
        },
        "banner": f"Go {version}",
        "debugger": False,
        "help_links": [],
        "supported_features": [],
    }


def _error(name: str, value: str) -> Content:
    return {"status": "error", "ename": name, "evalue": value, "traceback": []}

"""Starts the kernel: `python kernel TOOLCHAIN CONNECTION_FILE`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import shared_parts  # noqa: F401 - what follows imports by it
from kernel import GoKernel


def main() -> None:
    """Serves the kernel that the connection file describes."""
    # An interrupt is a message, and for programs. A handler is not inherited by them.
    signal.signal(signal.SIGINT, lambda *_: None)
    toolchain = Path(sys.argv[1])
    version_file = toolchain / "std" / "version"
    tools = {
        "gorun": str(toolchain / "bin" / "gorun"),
        "goask": str(toolchain / "bin" / "goask"),
        "std": str(toolchain / "std"),
        "version": version_file.read_text("ascii").strip(),
    }
    GoKernel(json.loads(Path(sys.argv[2]).read_bytes()), tools).serve()


main()

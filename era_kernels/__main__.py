"""Runs the command `era-kernels`, also for `python -m era_kernels`."""

from __future__ import annotations

import sys

from era_kernels.interpreter_malloc import use_c_library


def run() -> None:
    """Runs the command; that of a server begins with its choice of memory, before all imports."""
    if sys.argv[1:2] == ["serve"]:
        use_c_library()
    from era_kernels.cli import main

    main(prog_name="era-kernels")


if __name__ == "__main__":
    run()

"""`python -m era_kernels` is the command `era-kernels`."""

from __future__ import annotations

from era_kernels.cli import main

main(prog_name="era-kernels")

"""Runs the command `era-kernels` for `python -m era_kernels`."""

from __future__ import annotations

from era_kernels.cli import main

main(prog_name="era-kernels")

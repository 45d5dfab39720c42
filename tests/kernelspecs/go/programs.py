"""Small real programs, which run here and by `go run`, side by side."""

from __future__ import annotations

from pathlib import Path

from tests.kernelspecs.node.programs import read_programs

PROGRAMS = read_programs(Path(__file__).with_name("programs.go.txt"))

"""Programs that must do in a session what they do as `node main.js`: same output, same end.

A program is a name and its source. Those whose names end in `.mjs` are modules to plain Node. None
of them needs a network beyond this host; what they print must be the same every time.
"""

from __future__ import annotations

from pathlib import Path


def read_programs(file: Path) -> dict[str, str]:
    """Returns the programs of a file, in which each follows a line `//// name`."""
    programs = {}
    for part in ("\n" + file.read_text(encoding="utf-8")).split("\n//// ")[1:]:
        name, _, program = part.partition("\n")
        programs[name.strip()] = program.strip("\n") + "\n"
    return programs


_DIRECTORY = Path(__file__).parent
PROGRAMS = read_programs(_DIRECTORY / "programs.js.txt")
TYPED_PROGRAMS = read_programs(_DIRECTORY / "programs.ts.txt")
